"""A run so small that compiling it is the longest part; shared by the tests of whole runs."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from mln_flax import config as configs
from mln_flax import settings

ROOT = pathlib.Path(__file__).parents[2]
PHANTOM = str(ROOT / "configs" / "phantom_swin.py")
VIEWS = ("identity", "bezier(0.3)", "invert")
TEST_IMAGES = 4  # in each domain
SETTINGS = {
    "data.size": "32",
    "data.phantom.train": "6",
    "data.phantom.validation": "3",
    "data.phantom.test": str(TEST_IMAGES),
    "views.names": ",".join(VIEWS),
    "views.crop": "0.75",
    "model.patch_size": "4",
    "model.embed_dim": "8",
    "model.depths": "1,1",
    "model.num_heads": "1,2",
    "model.window_size": "4",
    "method.cross_entropy_from_step": "1",
    "train.steps": "4",
    "train.batch_size": "2",
    "train.log_every_steps": "1",
    "train.evaluate_every_steps": "2",
    "data.phantom.whole_normal": "0",
    "data.phantom.whole_lesions": "0",
    "train.cache_compiled": "false",  # the user's cache is not the tests'
    "evaluate.batch_size": "4",
    "evaluate.examples": "1",
}
# The network that compiles fastest, without branches: for what is not about them.
PLAIN = {"method__name": "supervised", "model__name": "unet", "model__widths": "4"}


def values(changes):
    """The settings of a run by their paths; a keyword `train__steps` is `train.steps`.

    The tiny sizes are of the Swin-Unet: another network keeps its own.
    """
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    is_other = changes.get("model.name", "swin_unet") != "swin_unet"
    kept = {n: v for n, v in SETTINGS.items() if not (is_other and n.startswith("model."))}
    return kept | changes


def flags(workdir, file=PHANTOM, **changes):
    """The words of a command line."""
    words = [f"--config.{name}={value}" for name, value in values(changes).items()]
    return [f"--config={file}", f"--workdir={workdir}", *words]


def config(file=PHANTOM, **changes):
    """The settings that `flags` describes."""
    made = settings.override_all(settings.load_file(file), values(changes))
    configs.validate(made)
    return made


def python(*words, **environment):
    """A fresh Python in the repository, not yet waited for."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(capsys, argv):
    """What stands on stderr when a command line is refused."""
    from mln_flax.main import main

    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and 1 <= len(err.splitlines()) <= 2, err
    return err


def wait_for(found, process):
    """Returns when `found()` holds or the process has ended, after a minute at the latest."""
    for _ in range(1200):
        if found() or process.poll() is not None:
            return
        time.sleep(0.05)


def snapshot(folder):
    """Every file below a folder with its content's time, to see that nothing was written."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path): path.stat().st_mtime_ns for path in files}


def write_films(folder):
    """A folder as mini-MIAS has them: 24 films of 96 pixels of 12 patients, four with a cluster."""
    row, column = np.mgrid[:96, :96]
    inside = np.hypot(row - 48, column) < 43
    pixels = np.where(inside, 120 + row, 8).astype(np.uint8)
    lines = []
    for film in range(1, 25):
        has_cluster = film < 8 and film % 2
        lines.append(f"mdb{film:03d} " + ("G CALC B 20 60 5" if has_cluster else "D NORM"))
        shown = (pixels + film).clip(0, 255).astype(np.uint8)
        (folder / f"mdb{film:03d}.pgm").write_bytes(b"P5\n96 96\n255\n" + shown.tobytes())
    (folder / "Info.txt").write_text("\n".join(lines) + "\n")
    return folder

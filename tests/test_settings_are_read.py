"""No setting stands without a use: real work, tiny, is done by settings that note what is read."""

import dataclasses

import answering
import marked_films
import numpy as np
import recording
import tiny
from PIL import Image

from mln_flax import modes, settings
from mln_flax.benchmark import yardstick
from mln_flax.config import BenchmarkConfig, ViewsConfig
from mln_flax.data.prepare import prepare
from mln_flax.engine import build, froc_run, states
from mln_flax.engine.load_data import load_data
from mln_flax.engine.whole_data import whole_images
from mln_flax.views import intensity


def folder_of_images(root):
    """Eight films of a patient each, with a spot each; one more that is left out for no mask."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(8):
        mask = np.zeros((48, 48), np.uint8)
        mask[10 + number, 12:15] = 255
        image = (random.random((48, 48)) * 100 + 100).astype(np.uint8) | mask
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    Image.fromarray(image).save(root / "images" / "alone.png")
    return root


def a_plain_run_on_a_folder(reads, tmp_path, _):
    root = folder_of_images(tmp_path / "films")
    data = {
        "data__name": "folder",
        "data__dir": str(root),
        "data__source": "folder",
        "data__targets": "",
        "data__tiles__rows": "1",
        "data__tiles__columns": "1",
        "data__workers": "1",
    }
    config = tiny.config(**tiny.PLAIN, **data)
    workdir = tmp_path / "run"
    assert modes.run("train", recording.watched(config, reads), workdir, [], "", "python") == 0
    assert (workdir / "report" / "index.html").exists()
    prepared = prepare.default_folder(config.data, workdir)
    assert whole_images(recording.watched(config, reads), "test", prepared).parts


def a_start_from_random_weights(reads, *_):
    run = build.build(recording.watched(tiny.config(), reads))
    states.refuse_unfit_start(run)
    assert states.pretrained_path(run) == ""


def drawn_phantoms(reads, *_):
    whole = {"data__phantom__whole_train": "1", "data__phantom__spacing_mm": "1"}
    data = load_data(recording.watched(tiny.config(**whole), reads))
    assert data.examples("film", "test")


def whole_phantoms(reads, *_):
    counts = {f"data__phantom__whole_{name}": "0" for name in ("normal", "lesions", "test")}
    for part in ("validation", "test"):
        assert whole_images(recording.watched(tiny.config(**counts), reads), part).parts


def phantoms_for_others(reads, tmp_path, _):
    counts = {"phantoms__count": "1", "phantoms__domains": "film", "data__workers": "1"}
    config = recording.watched(tiny.config(**counts), reads)
    assert modes.run("export-phantoms", config, None, [], str(tmp_path / "phantoms")) == 0


def a_prediction_of_mln(reads, tmp_path, workdir):
    config = settings.read_json(workdir / "config.json")
    config = settings.override(config, "method.selection", "cosine")
    path = tmp_path / "image.png"
    Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)).save(path)
    watched = recording.watched(config, reads)
    assert modes.run("predict", watched, workdir, [path], str(tmp_path / "masks")) == 0


def a_measurement_of_whole_images(reads, tmp_path, _):
    films = marked_films.write(tmp_path / "marked", [3])
    config = recording.watched(tiny.config(data__name="mini_mias", **tiny.PLAIN), reads)
    predictor, output = answering.predictor(spacing_mm=(0.2, 0.2)), str(tmp_path / "measured")
    assert froc_run.measure_with(predictor, config, [films], output) == 0


def a_benchmark_of_mln(reads, *_):
    """Compiles the step, so that the losses and the optimizer read what they are made by."""
    small = {"data__size": "16", "model__depths": "1", "model__num_heads": "1", "views__crop": "1"}
    config = tiny.config(**small, benchmark__runs="0", benchmark__only="train_views")
    assert modes.run("benchmark", recording.watched(config, reads), None, [], "") == 0


def drawn_views(reads, *_):
    views = ViewsConfig(strategy="random", pairs=1, invert_all=True)
    assert len(intensity.view_names(recording.watched(views, reads), 0)) > 1


def a_stream_without_labels(reads, *_):
    run = build.build(tiny.config(**tiny.PLAIN))
    config = dataclasses.replace(run.config, data=run.config.data)
    config = settings.override(config, "data.unlabeled", "film")
    plan = build.plan(run._replace(config=recording.watched(config, reads)))
    assert plan.unlabeled_batch_size == config.train.unlabeled_batch_size


def a_network_of_pytorch(reads, *_):
    config = tiny.config()
    model = build.build(config).model
    config = dataclasses.replace(config, benchmark=BenchmarkConfig(against_compiled=False))
    network = type("Network", (), {"to": lambda self, device: self})
    other = yardstick.Yardstick(
        None, lambda **_: network(), recording.watched(config, reads), model, "cpu", {}
    )
    assert isinstance(other.network(32), network)


WORK = (
    a_plain_run_on_a_folder,
    a_start_from_random_weights,
    drawn_phantoms,
    whole_phantoms,
    phantoms_for_others,
    a_prediction_of_mln,
    a_measurement_of_whole_images,
    a_benchmark_of_mln,
    drawn_views,
    a_stream_without_labels,
    a_network_of_pytorch,
)


def test_every_setting_is_read_by_attribute(tiny_workdir, tmp_path):
    reads, known = set(), set()
    for work in WORK:
        work(reads, tmp_path, tiny_workdir)
    for config in (tiny.config(), tiny.config(**tiny.PLAIN)):
        known |= set(recording.fields_of(config))
    assert known - reads == set()


def test_settings_that_are_only_carried_are_not_read():
    @dataclasses.dataclass(frozen=True)
    class Group:
        used: int = 1
        shown: int = 2

    reads = set()
    group = recording.watched(Group(), reads)
    assert dataclasses.replace(group, used=3) != group and hash(group)
    assert settings.to_dict(group) == {"used": 1, "shown": 2} and not reads
    assert dataclasses.replace(group, shown=3).used == 1 and reads == {"Group.used"}

"""Phantoms as files: each layout is read back, kills are survived, wrong settings are refused."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import tiny
from PIL import Image
from scipy import ndimage

from mln_flax import settings
from mln_flax.config import Config, DataConfig
from mln_flax.data.core import PARTS
from mln_flax.data.phantom_files import export, plan
from mln_flax.data.phantoms import phantom, whole
from mln_flax.data.readers import reader
from mln_flax.data.sets import folder as own_folder
from mln_flax.data.sets import npz
from mln_flax.main import main
from mln_flax.types import UserError

COUNT, SIZE = 4, 64
DOMAINS = ("ffdm", "film", "processing")
SMALL = {
    "data.size": str(SIZE),
    "data.workers": "1",
    "phantoms.count": str(COUNT),
    "phantoms.domains": ",".join(DOMAINS),
    "phantoms.test": "0.5",
}


def config(**changes):
    values = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    return settings.override_all(Config(), values)


def written(folder, **changes):
    """The folder of an export."""
    assert export.export(config(**changes), str(folder), "abc") == 0
    return folder


def words(folder, **changes):
    """The command line of an export."""
    values = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return ["--mode=export-phantoms", f"--output={folder}", *flags]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An export in each layout, to be read only."""
    root = tmp_path_factory.mktemp("exports")
    return {kind: written(root / kind, phantoms__format=kind) for kind in export.LAYOUTS}


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drawn(name):
    """The phantom of this name, by the drawing code itself."""
    domain, seed, index = name.split("-")
    return phantom.phantom(int(seed), domain, int(index), height=SIZE, width=SIZE)


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    hidden = (".lock", export.JOURNAL)
    return {p.relative_to(folder): p.read_bytes() for p in paths if p.name not in hidden}


def test_png_and_its_tables(folders):
    rows = table(folders["png"] / "images.csv")
    objects = table(folders["png"] / "objects.csv")
    assert len(rows) == COUNT * len(DOMAINS)
    for row in rows:
        example = drawn(row["image"])
        image = np.array(Image.open(folders["png"] / row["image_file"]))
        mask = np.array(Image.open(folders["png"] / row["mask_file"]))
        assert image.dtype == np.uint16 and mask.dtype == np.uint8
        np.testing.assert_array_equal(image, np.round(example.image * 65535))
        np.testing.assert_array_equal(mask, 255 * example.mask)
        labels, count = ndimage.label(example.mask, np.ones((3, 3)))
        mine = [spot for spot in objects if spot["image"] == row["image"]]
        assert [int(spot["number"]) for spot in mine] == list(range(1, count + 1))
        assert (int(row["calcifications"]), row["kind"]) == (
            count,
            "lesions" if count else "normal",
        )
        centers = ndimage.center_of_mass(example.mask, labels, range(1, count + 1))
        areas = ndimage.sum_labels(example.mask, labels, range(1, count + 1)) * 0.1**2
        expected = sorted((*np.round(c, 3), a) for c, a in zip(centers, areas, strict=True))
        found = [tuple(float(s[k]) for k in ("row", "column", "area_mm2")) for s in mine]
        np.testing.assert_allclose(
            np.reshape(sorted(found), (-1, 3)), np.reshape(expected, (-1, 3))
        )
        assert (row["laterality"], row["view"]) == (example.laterality, example.view_position)
    assert {row["kind"] for row in rows} == {"lesions", "normal"}


def test_patients_and_parts(folders):
    rows = table(folders["png"] / "images.csv")
    assert len({row["patient"] for row in rows}) == len(rows)
    for domain in DOMAINS:
        mine = [row for row in rows if row["domain"] == domain]
        assert sorted(row["part"] for row in mine) == ["test"] * 2 + ["train"] * 2
        for part in ("test", "train"):
            kinds = [row["kind"] for row in mine if row["part"] == part]
            assert sorted(kinds) == ["lesions", "normal"]
    about = json.loads((folders["png"] / "dataset.json").read_text())
    assert (about["images"], about["normal"], about["commit"]) == (len(rows), len(rows) // 2, "abc")
    assert about["settings"]["seed"] == 0 and about["settings"]["drawing_code"]


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_the_folder_data_set_reads_it(folders, kind):
    steps = {"png": 65535, "dicom": 2**14 - 1}[kind]
    collection = own_folder.folder()
    data = DataConfig(name="folder", dir=str(folders[kind]))
    index = collection.index(data)
    assert not index.left_out and len(index.entries) == COUNT * len(DOMAINS)
    parts = {row["image"]: row["part"] for row in table(folders[kind] / "images.csv")}
    for entry in index.entries:
        example, repaired = collection.read(entry, data)
        expected = drawn(entry.key)
        assert not [line for line in repaired if "scaled" in line or "ignored" in line]
        stored = np.round(expected.image * np.float32(steps)) / steps
        np.testing.assert_allclose(example.image, stored, atol=1e-6)
        np.testing.assert_array_equal(example.mask, expected.mask)
        assert entry.domain.removesuffix("_processing") == expected.domain
        assert (entry.part, entry.patient.removeprefix("PHANTOM-")) == (
            parts[entry.key],
            expected.patient_id,
        )
        assert (example.laterality, example.view_position, example.spacing_mm) == (
            expected.laterality,
            expected.view_position,
            (0.1, 0.1),
        )


def test_dark_images_keep_their_gray_levels(tmp_path):
    """16-bit PNG that use few levels are not taken for 12 bits that nobody has scaled."""
    from mln_flax.data.writers import png

    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "new.png").write_bytes(png.content(pixels))
    np.testing.assert_array_equal(
        reader.read(tmp_path / "new.png").image, pixels / np.float32(65535)
    )
    Image.fromarray(pixels).save(tmp_path / "old.png")
    np.testing.assert_array_equal(reader.read(tmp_path / "old.png").image, pixels / np.float32(255))
    (tmp_path / "eight.png").write_bytes(png.content(pixels.astype(np.uint8)))
    assert reader.read(tmp_path / "eight.png").image.max() == np.float32(63 / 255)


def test_nnunet(folders):
    root = folders["nnunet"] / "Dataset001_MammogramPhantoms"
    about = json.loads((root / "dataset.json").read_text())
    training = COUNT * len(DOMAINS) // 2
    assert about == {
        "channel_names": {"0": "mammogram"},
        "labels": {"background": 0, "calcification": 1},
        "numTraining": training,
        "file_ending": ".png",
    }
    for rooms in ("Tr", "Ts"):
        labels = sorted((root / f"labels{rooms}").iterdir())
        images = sorted((root / f"images{rooms}").iterdir())
        assert [f"{path.stem}_0000.png" for path in labels] == [path.name for path in images]
        assert len(images) == training
        for image, label in zip(images, labels, strict=True):
            example = drawn(label.stem)
            np.testing.assert_array_equal(np.array(Image.open(label)), example.mask)
            np.testing.assert_array_equal(
                np.array(Image.open(image)), np.round(example.image * 65535)
            )
    assert {path.name for path in root.iterdir()} == {
        *("imagesTr", "labelsTr", "imagesTs", "labelsTs", "dataset.json"),
    }


def test_the_npz_data_set_reads_it(folders):
    collection = npz.npz()
    data = DataConfig(name="npz", dir=str(folders["npz"] / "slices"))
    index = collection.index(data)
    assert not index.left_out and len(index.entries) == COUNT * len(DOMAINS)
    for entry in index.entries:
        part, domain, name = entry.key.split("/")
        example = collection.read(entry, data).example
        expected = drawn(name.removesuffix("_0"))
        np.testing.assert_allclose(example.image, expected.image, atol=0.51 / 65535)
        np.testing.assert_array_equal(example.mask, expected.mask)
        assert (entry.part, entry.domain) == (part, domain)


def test_whole_breasts_are_those_that_a_run_is_tested_on(tmp_path):
    changes = {"phantoms__domains": "film", "phantoms__count": "3", "phantoms__normal": "0.34"}
    spacing = {"data__phantom__spacing_mm": "0.4", "phantoms__whole": "true"}
    folder = written(tmp_path / "whole", **changes, **spacing)
    rows = table(folder / "images.csv")
    own = [f"film-0-{i}" for i in whole.indices(0, "film", "test", 1, 2)]
    assert [row["image"] for row in rows] == own
    assert sorted(row["kind"] for row in rows) == ["lesions", "lesions", "normal"]
    for row in rows:
        number = int(row["image"].split("-")[-1])
        example = phantom.whole_view(0, "film", number, spacing_mm=0.4)
        image = np.array(Image.open(folder / row["image_file"]))
        np.testing.assert_array_equal(image, np.round(example.image * np.float32(65535)))
        mask = np.array(Image.open(folder / row["mask_file"]))
        np.testing.assert_array_equal(mask, 255 * example.mask)
        assert (int(row["height"]), int(row["width"])) == example.image.shape


def test_several_processes_write_the_same(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "WORTH_PIXELS", 0)
    folder = written(tmp_path / "two", data__workers="2")
    assert contents(folder) == contents(folders["png"])


def test_a_killed_export_goes_on(folders, tmp_path):
    folder = tmp_path / "killed"
    stop_after = """
import json, os, signal, sys
from mln_flax import settings
from mln_flax.config import Config
from mln_flax.data.phantom_files import layouts, export
real, count = layouts.LAYOUTS["png"], 0
def write(*words):
    global count
    count += 1
    if count > 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real.write(*words)
layouts.LAYOUTS["png"] = real._replace(write=write)
config = settings.override_all(Config(), json.loads(sys.argv[2]))
export.export(config, sys.argv[1], "abc")
"""
    process = tiny.python("-c", stop_after, folder, json.dumps(SMALL))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "dataset.json").exists() and not (folder / "images.csv").exists()
    journal = (folder / export.JOURNAL).read_bytes()
    assert len(journal.splitlines()) == 1 + 5
    (folder / export.JOURNAL).write_bytes(journal[:-40])  # a line that is cut short
    names = [json.loads(line)[0] for line in journal.splitlines()[1:5]]
    damaged, kept = (folder / "images" / f"{name}.png" for name in names[:2])
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (folder / "masks" / f".x.png.{'0' * 16}.tmp").write_bytes(b"half")
    times = kept.stat().st_mtime_ns, damaged.stat().st_mtime_ns
    written(folder)
    expected = contents(folders["png"])
    assert contents(folder) == expected
    assert times[0] == kept.stat().st_mtime_ns and times[1] < damaged.stat().st_mtime_ns
    before = tiny.snapshot(folder / "images")
    written(folder)
    assert tiny.snapshot(folder / "images") == before and contents(folder) == expected


WRONG = {
    "format": ({"phantoms__format": "nifti"}, "--config.phantoms.format=nifti: unknown; known: pn"),
    "count": ({"phantoms__count": "0"}, "--config.phantoms.count=0: must be above 0"),
    "normal": ({"phantoms__normal": "1.5"}, "--config.phantoms.normal=1.5: must lie between 0 and"),
    "domain": ({"phantoms__domains": "ffdm,flim"}, "domains=ffdm,flim: unknown phantom domain 'fl"),
    "no domain": ({"phantoms__domains": ""}, "--config.phantoms.domains=: needs one or more"),
    "twice": ({"phantoms__domains": "dbt,dbt"}, "domains=dbt,dbt: 'dbt' is named twice"),
    "parts": ({"phantoms__validation": "0.6"}, "validation and test are more than all"),
    "setting": ({"phantoms__cuont": "1"}, "unknown setting 'cuont' (did you mean 'count'?)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused(name, tmp_path, capsys):
    changes, complaint = WRONG[name]
    assert complaint in tiny.refused(capsys, words(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_refused(folders, tmp_path, capsys):
    copy = shutil.copytree(folders["png"], tmp_path / "copy")
    before = contents(copy)
    refusal = tiny.refused(capsys, words(copy, phantoms__count="5", data__phantom__seed="1"))
    assert "holds phantoms of other settings (count, seed)" in refusal
    assert contents(copy) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    assert "holds letter.txt, which no export of phantoms" in tiny.refused(capsys, words(other))
    assert "is a file" in tiny.refused(capsys, words(other / "letter.txt"))
    assert "--output is missing" in tiny.refused(capsys, ["--mode=export-phantoms"])
    assert "only --mode=predict and --mode=froc take" in tiny.refused(
        capsys, [*words(tmp_path / "a"), "b.png"]
    )


def test_the_command_line_writes_them(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(words(folder, phantoms__count="1", phantoms__domains="film")) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": 1 images, png")
    assert (folder / "dataset.json").exists()


def test_parts_share_out_all_patients():
    shares = plan.Shares(normal=0.3, validation=0.1, test=0.2)
    tasks = plan.of_domain("dbt", 3, 40, shares, 32, 0.1)
    assert len({task.patient for task in tasks}) == 40
    parts = [task.part for task in tasks]
    assert [parts.count(name) for name in PARTS] == [40 - 5 - 9, 2 + 3, 3 + 6]
    assert {task.part for task in plan.of_domain("dbt", 3, 4, plan.Shares(0.5), 32, 0.1)} == {""}


def test_more_patients_than_there_are(monkeypatch):
    monkeypatch.setattr(phantom, "EACH", 8)
    with pytest.raises(UserError, match="phantoms.count=20: a seed has fewer patients"):
        plan.of_domain("ffdm", 0, 20, plan.Shares(0.5), 32, 0.1)

"""From an archive as it is downloaded to a report: one command, and nobody is named in anything."""

import json
import re
import zipfile

import cbis_trees
import pytest
import tiny

from mln_flax.main import main
from mln_flax.results import records

CBIS = str(tiny.ROOT / "configs" / "cbis.py")
PATIENT = re.compile(rb"P_\d{5}")
SETTINGS = {
    "data__name": "cbis_ddsm",
    "train__foreground": "0.5",
    "data__workers": "1",
    "model__name": "unet",  # compiles sooner
    "model__widths": "4",
}


def words(root, workdir):
    return tiny.flags(workdir, CBIS, data__dir=str(root), **SETTINGS)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run on the archive's layout with every fault planted, and what it printed."""
    home = tmp_path_factory.mktemp("cbis")
    cbis_trees.write(home / "archive", "archive", faults=cbis_trees.FAULTS)
    process = tiny.python("-m", "mln_flax.main", *words(home / "archive", home / "run"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return home, out + err


def written(home):
    """Every file that the run wrote, with the members of those that are archives."""
    for path in sorted((*(home / "run").rglob("*"), *(home / "prepared").rglob("*"))):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".npz":
                with zipfile.ZipFile(path) as members:
                    for name in members.namelist():
                        yield f"{path}/{name}", members.read(name)


def test_it_trains_evaluates_and_reports(ran):
    home, said = ran
    images = [r for r in records.read_whole(home / "run" / "records.jsonl") if r["kind"] == "image"]
    assert {(r["domain"], r["label_kind"], r["part"]) for r in images} >= {
        ("cbis_ddsm", "cluster", "test")
    }
    (report,) = home.glob("prepared/*/prepare.json")
    prepared = json.loads(report.read_text())
    tested = [image for image in prepared["images"] if image["part"] == "test"]
    assert len(images) == sum(image["tiles"] for image in tested)
    assert "step 4/4" in said and (home / "run" / "report" / "index.html").is_file()
    row = records.read(home / "run" / "train.jsonl")[-2]
    assert row["images_per_s"] > 0 and 0 <= row["input_wait"] <= 1


def test_the_report_has_the_fields_that_programs_need(ran):
    home, _ = ran
    (report,) = home.glob("prepared/*/prepare.json")
    said = json.loads(report.read_text())
    assert set(said) >= {"images", "left_out", "totals"}
    wanted = {"image_id", "domain", "part", "patient", "tiles", "label_pixels", "spacing_mm"}
    assert all(set(image) >= wanted | {"repaired"} for image in said["images"])
    assert said["left_out"] and all(set(one) == {"file", "reason"} for one in said["left_out"])
    assert said["totals"]["images"] == len(said["images"])
    assert len({image["image_id"] for image in said["images"]}) == len(said["images"])


def test_nobody_is_named_in_what_was_written_or_said(ran):
    home, said = ran
    names = [part.encode() for part in cbis_trees.PLANTED.split("^")]
    names += [b"08-29-2017", b"10-05-2016"]  # dates in the archive's own folders
    files = list(written(home))
    assert len(files) > 30
    for path, content in [*files, ("what was said", said.encode())]:
        found = PATIENT.search(content) or next((n for n in names if n in content), None)
        assert not found, (path, found)
        assert not PATIENT.search(str(path).encode())


def test_stored_fields_name_nobody_either(ran):
    from mln_flax.data.prepare import prepared

    home, _ = ran
    (folder,) = home.glob("prepared/*")
    said = json.loads((folder / "prepare.json").read_text())
    places = [
        (prepared.split_name(i["domain"], i["part"]), i["first_tile"]) for i in said["images"]
    ]
    shown = {image["image_id"]: image["patient"] for image in said["images"]}
    for tile in prepared.read(folder, places):
        whole = tile.image_id.removesuffix("_r0c0")
        assert shown[whole] == tile.patient_id and not PATIENT.search(repr(tile).encode())


def test_again_prepares_nothing_and_says_so(ran, capsys):
    home, _ = ran
    (folder,) = home.glob("prepared/*")
    before = tiny.snapshot(folder)
    assert main([*words(home / "archive", home / "run"), "--mode=prepare"]) == 0
    assert "prepared already" in capsys.readouterr().out
    assert tiny.snapshot(folder) == before
    (home / "archive" / "more.txt").write_text("new")
    assert main([*words(home / "archive", home / "run"), "--mode=prepare"]) == 0
    assert "other files than then" in capsys.readouterr().out


def test_stopping_at_what_is_left_out_holds_for_prepared_data_too(ran, capsys):
    home, _ = ran
    flags = [*words(home / "archive", home / "run"), "--config.data.on_error=stop"]
    assert main([*flags, "--mode=prepare"]) == 2
    assert "on_error=report leaves it out" in capsys.readouterr().err
    keys = (home / "archive" / ".mln_flax_names.csv").read_text()
    assert PATIENT.search(keys.encode())  # beside the patients' images, and nowhere else


def test_a_domain_that_is_not_there_is_said_before_the_work(ran, tmp_path, capsys):
    home, _ = ran
    flags = words(home / "archive", tmp_path / "run")
    assert main([*flags, "--config.data.source=cbis"]) == 2
    assert "no domain 'cbis' (did you mean 'cbis_ddsm'?)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dicom_file_is_segmented(ran, tmp_path):
    home, _ = ran
    image = next(p for p in sorted(home.glob("archive/**/*.dcm")) if "full mammogram" in str(p))
    out = tmp_path / "out"
    flags = [f"--workdir={home / 'run'}", "--mode=predict", f"--output={out}"]
    assert main([*flags, str(image)]) == 0
    (line,) = records.read_whole(out / "predictions.jsonl")
    assert line["files"]["mask"] == "1-1_mask.png" and line["spacing_from"] == "assumed"
    seg, report = (line["files"][kind] for kind in ("seg", "sr"))  # these file the answer
    assert {seg, report} <= {path.name for path in out.iterdir()}
    for content in (p.read_bytes() for p in out.iterdir() if p.suffix != ".dcm"):
        assert not PATIENT.search(content) and cbis_trees.PLANTED.encode() not in content

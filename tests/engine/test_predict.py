"""`--mode=predict`: a folder of answers that goes on, keeps to its own and loses nobody's image."""

import errno
import json
import os
import shutil
import signal
import subprocess

import answering
import dicoms
import exams
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax import files, locks
from mln_flax.data.core import Unusable
from mln_flax.engine import answers, inputs, predict, session
from mln_flax.engine.origin import origin_of
from mln_flax.engine.predictor import NO_POINT, Predictor
from mln_flax.main import main
from mln_flax.results import answer_tables, overlay
from mln_flax.types import UserError

PATIENT = ("ZEBEDEE", "Zebedee", "Quentina", "PID-778899", "19511224", "ACC-445566")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(*paths, **options)`: the command with a network that marks what is bright."""
    pictures = {"view": b"v", "marks": b"m", "overlay": b"o", "thumbnail": b"t"}
    monkeypatch.setattr(overlay, "pictures", lambda *given, **named: pictures)  # theirs is a test

    def command(*paths, output="out", overwrite=False, network=answering.bright, **changes):
        predictor = answering.predictor(network, **{"predict__min_mm2": "0"} | changes)
        monkeypatch.setattr(Predictor, "of", lambda config, workdir: predictor)
        return predict.predict(
            predictor.run.config,
            tmp_path,
            [tmp_path / path for path in paths],
            str(tmp_path / output),
            overwrite,
        )

    return command


def images(folder, *names):
    for name in names:
        answering.save(folder / name, answering.mammogram())
    return folder


def lines(folder):
    return answer_tables.read(folder)


def answered(folder):
    """The times of all JSON files of answers."""
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("[!p.]*.json")}


def test_answers_lie_as_the_images_do(run, tmp_path, capsys):
    images(tmp_path / "in", "a.png", "sub/b c.png", "sub/50%#é.png", "-x.png")
    assert run("in") == 0
    found, left_out = lines(tmp_path / "out")
    assert left_out == [] and sorted(line["image"] for line in found) == [
        *("-x.png", "a.png", "sub/50%#é.png", "sub/b c.png"),
    ]
    for name in ("a", "sub/b c", "sub/50%#é", "-x"):
        for ending in ("_probability.png", "_mask.png", "_overlay.png", ".json", "_page.html"):
            assert (tmp_path / "out" / f"{name}{ending}").exists()
    out = capsys.readouterr().out
    assert out.count(NO_POINT) == 1 and "4 images answered, 4 clusters, left out: 0" in out
    assert "1 cluster, " in out and "pixel size assumed; 0:0" in out
    assert all(line["warnings"][0].startswith(NO_POINT) for line in found)
    manifest = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert str(tmp_path / "in") not in json.dumps(manifest)  # it may name somebody
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"index.html", "objects.csv", "clusters.csv", "predictions.jsonl"} < names
    assert "\n./-x.png," in (tmp_path / "out" / "objects.csv").read_text()


def test_the_same_command_does_what_is_left(run, tmp_path, capsys):
    images(tmp_path / "in", "a.png", "b.png", "c.png")
    assert run("in") == 0
    before = answered(tmp_path / "out")
    assert len(before) == 3
    (tmp_path / "out" / "a.json").unlink()
    (tmp_path / "out" / "b_mask.png").unlink()  # nor is that a whole answer
    capsys.readouterr()
    assert run("in") == 0
    after = answered(tmp_path / "out")
    assert {n for n in after if after[n] == before[n]} == {"c.json"}
    assert "c.png: done already" in capsys.readouterr().out
    answering.save(tmp_path / "in" / "c.png", answering.mammogram(dots=()))
    assert run("in") == 0  # a file that has changed is answered anew
    assert {n for n, t in answered(tmp_path / "out").items() if t != after[n]} == {"c.json"}
    assert sum(len(line["clusters"]) for line in lines(tmp_path / "out")[0]) == 2


def test_another_command_on_the_same_images_adds_its_own(run, tmp_path):
    images(tmp_path / "in", "a.png", "b.png")
    assert run("in/a.png") == 0 and run("in/b.png") == 0
    assert {line["image"] for line in lines(tmp_path / "out")[0]} == {"a.png", "b.png"}


def test_other_answers_are_refused_or_give_way(run, tmp_path):
    images(tmp_path / "in", "a.png", "sub/b.png")
    out = tmp_path / "out"
    assert run("in") == 0
    before = tiny.snapshot(out)
    with pytest.raises(
        UserError, match="other origin \\(settings\\); take another folder, or --overwrite"
    ):
        run("in", predict__threshold="0.7")
    with pytest.raises(UserError, match=r"other origin \(folder of images\)"):
        run("in/sub")
    assert tiny.snapshot(out) == before
    for mine in ("a_notes.txt", "sub/b_mask_mine.png", "mine.json"):
        (out / mine).write_text("mine")
    (out / f".c_mask.png.{'0' * 16}.tmp").write_text("of another image")
    (out / "sub" / f".b_mask.png.{'0' * 16}.tmp").write_text("a kill left it")
    assert run("in/sub", overwrite=True) == 0
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {"a_notes.txt", "sub/b_mask_mine.png", "mine.json"} < names
    assert f".c_mask.png.{'0' * 16}.tmp" in names
    assert not names & {"a.json", "a_mask.png", "a_page.html", "sub/b.json", "sub/b_mask.png"}
    assert not any(name.endswith(".tmp") and name.startswith("sub/") for name in names)
    assert {"b.json", "b_mask.png", "index.html"} < names
    assert [line["image"] for line in lines(out)[0]] == ["b.png"]


@pytest.mark.parametrize("name", ["a_mask.png", "a.json", "a_0001_mask.png", "index.html"])
def test_files_that_no_prediction_wrote_are_never_replaced(run, tmp_path, name):
    images(tmp_path / "in", "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"holds {name}, which no prediction wrote"):
            run("in", overwrite=overwrite)
    assert (tmp_path / "out" / name).read_text() == "mine"
    assert not (tmp_path / "out" / "prediction.json").exists()


def test_outputs_that_are_none(run, tmp_path, monkeypatch):
    images(tmp_path / "in", "a.png")
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/below"):
        with pytest.raises(UserError, match="is a file"):
            run("in", output=output)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prediction.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="no prediction wrote it"):
        run("in", output="other", overwrite=True)
    (tmp_path / "out").mkdir()
    lock = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(); input()"
    path = tmp_path / "out" / locks.LOCK
    words = [tiny.sys.executable, "-c", lock, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is at work in it"):
            run("in")
        other.communicate(b"\n")
    assert run("in") == 0

    def read_only(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write_bytes", read_only)
    with pytest.raises(OSError, match="Read-only"):
        run("in", output="new")


def test_bad_files_among_good_ones(run, tmp_path, capsys):
    """Each is named, with what it is; the others are answered."""
    folder = images(tmp_path / "in", "a.png", "z.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:90])
    (folder / "empty.dcm").write_bytes(b"")
    answering.save(folder / "flat.png", np.full((40, 40), 0.5))
    answering.save(folder / "tiny.png", np.eye(5))
    answering.save(folder / "small.png", answering.mammogram((20, 24), ()))
    photo = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    noise = photo[..., 0].astype(np.uint16) * 16
    dicoms.write(folder / "ct.dcm", noise, Modality="CT")
    floats = np.full((30, 30), np.nan, np.float32)
    Image.fromarray(floats).save(folder / "nan.tif")
    for kind in ("SEG", "SR", "RTSTRUCT"):
        dicoms.write(folder / f"{kind}.dcm", noise, Modality=kind)
    (folder / "link.png").symlink_to(folder / "gone.png")
    assert run("in") == 1
    found, left_out = lines(tmp_path / "out")
    assert [line["image"] for line in found] == ["a.png", "small.png", "z.png"]
    reasons = {line["image"]: line["reason"] for line in left_out}
    assert set(reasons) == {
        *("broken.png", "empty.dcm", "flat.png", "tiny.png", "photo.png", "ct.dcm", "nan.tif"),
        "link.png",
    }
    assert "colors" in reasons["photo.png"] and "CT" in reasons["ct.dcm"]
    out = capsys.readouterr().out
    for name, reason in reasons.items():
        assert f"left out {name}: {reason}" in out
    assert "passed over SEG.dcm: " in out
    assert "3 images answered, 2 clusters, left out: 8, passed over: 3" in out
    manifest = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert [item["image"] for item in manifest["passed_over"]] == [
        "RTSTRUCT.dcm",
        "SEG.dcm",
        "SR.dcm",
    ]
    assert (tmp_path / "out" / "index.html").exists()


def test_our_own_answers_beside_the_images_are_passed_over(run, tmp_path):
    image = (answering.mammogram() * 4095).astype(np.uint16)
    (tmp_path / "in").mkdir()
    dicoms.write(tmp_path / "in" / "a.dcm", image, bits=12, **exams.UIDS)
    assert run("in") == 0
    for name in ("a_seg.dcm", "a_sr.dcm"):
        shutil.copy(tmp_path / "out" / name, tmp_path / "in")
    assert run("in") == 0
    assert [line["image"] for line in lines(tmp_path / "out")[0]] == ["a.dcm"]


@pytest.mark.parametrize("error", [MemoryError(), KeyError("Zebedee"), OSError("encoder error")])
@pytest.mark.parametrize("where", ["network", "writing"])
def test_what_goes_wrong_with_one_image_loses_no_other(
    run, tmp_path, monkeypatch, capsys, error, where
):
    images(tmp_path / "in", "a.png", "b.png", "c.png")
    answering.save(tmp_path / "in" / "b.png", 0.93 * answering.mammogram())

    def network(tiles):
        if where == "network" and 0.9 < tiles.max() < 0.95:
            raise error
        return answering.bright(tiles)

    original = answers.write

    def write(folder, whole, *others):
        if where == "writing" and whole.image == "b.png":
            raise error
        original(folder, whole, *others)

    monkeypatch.setattr(answers, "write", write)
    assert run("in", network=network) == 1
    found, left_out = lines(tmp_path / "out")
    assert [line["image"] for line in found] == ["a.png", "c.png"]
    ((name, reason),) = [(line["image"], line["reason"]) for line in left_out]
    assert name == "b.png" and reason.startswith(f"{type(error).__name__} at test_predict.py, line")
    assert not list((tmp_path / "out").glob("b*"))
    assert "Zebedee" not in capsys.readouterr().out
    monkeypatch.setattr(answers, "write", original)
    assert run("in") == 0 and len(lines(tmp_path / "out")[0]) == 3


def write_volume(path, frames=4):
    pixels = np.stack([answering.mammogram() for _ in range(frames)])
    fields = exams.groups([(3.0 + n, 1.0, 2.0) for n in range(frames)], spacing=(0.1, 0.1))
    path.parent.mkdir(exist_ok=True)
    return dicoms.write(path, (pixels * 4095).astype(np.uint16), bits=12, **exams.UIDS | fields)


def test_a_volume_that_fails_in_the_middle_leaves_nothing(run, tmp_path, monkeypatch):
    write_volume(tmp_path / "in" / "v.dcm")
    images(tmp_path / "in", "a.png")
    reader = inputs.reader
    original = reader.read

    def read(path, frame=0):
        if path.name == "v.dcm" and frame == 2:
            raise Unusable("frame 2 cannot be decoded")
        return original(path, frame)

    monkeypatch.setattr(reader, "read", read)
    assert run("in", predict__choice="image") == 1
    found, left_out = lines(tmp_path / "out")
    assert [line["image"] for line in found] == ["a.png"]
    assert left_out[0]["image"] == "v.dcm" and "frame 2" in left_out[0]["reason"]
    assert not list((tmp_path / "out").glob("v*"))
    monkeypatch.setattr(reader, "read", original)
    assert run("in", predict__choice="image") == 0
    found, _ = lines(tmp_path / "out")
    assert [(line["image"], line["frame"]) for line in found] == [
        ("a.png", 0),
        *(("v.dcm", n) for n in range(4)),
    ]
    assert len({line["clusters"][0]["number"] for line in found[1:]}) == 1
    assert (tmp_path / "out" / "v_0004_mask.png").exists()
    assert (tmp_path / "out" / "v_seg.dcm").exists()
    os.replace(tmp_path / "in" / "a.png", tmp_path / "in" / "v.png")  # a file instead of a volume
    (tmp_path / "in" / "v.dcm").unlink()
    assert run("in", predict__choice="image") == 0
    assert not list((tmp_path / "out").glob("v_0*"))
    assert (tmp_path / "out" / "v.json").exists()


def test_every_frame_is_decoded_once(run, tmp_path, monkeypatch):
    write_volume(tmp_path / "in" / "v.dcm")
    images(tmp_path / "in", "a.png")
    reads, original = [], inputs.reader.read

    def read(path, frame=0):
        reads.append((path.name, frame))
        return original(path, frame)

    monkeypatch.setattr(inputs.reader, "read", read)
    assert run("in") == 0
    assert sorted(reads) == [("a.png", 0), *(("v.dcm", frame) for frame in range(4))]
    reads.clear()
    assert run("in") == 0 and reads == []


def test_a_full_disk_ends_it_by_name_and_the_same_command_goes_on(run, tmp_path, monkeypatch):
    images(tmp_path / "in", "a.png", "b.png")
    original, written = files.write_bytes, []

    def write_bytes(path, content):
        written.append(path)
        if len(written) > 12:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(path, content)

    monkeypatch.setattr(files, "write_bytes", write_bytes)
    with pytest.raises(OSError) as raised:
        run("in")
    assert "No space left on device; free space" in files.refusal(raised.value)
    monkeypatch.setattr(files, "write_bytes", original)
    assert set(answered(tmp_path / "out")) == {"a.json"}
    assert run("in") == 0 and len(lines(tmp_path / "out")[0]) == 2


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_it_after_the_image_at_hand(run, tmp_path, capsys, name, code):
    images(tmp_path / "in", "a.png", "b.png", "c.png")
    handler = signal.getsignal(signal.Signals[name])
    sent = []

    def network(tiles):
        if not sent:
            sent.append(signal.raise_signal(signal.Signals[name]))
        return answering.bright(tiles)

    assert run("in", network=network) == code
    assert f"stopped by {name}; the same command does what is left" in capsys.readouterr().out
    assert set(answered(tmp_path / "out")) == {"a.json"}
    assert signal.getsignal(signal.Signals[name]) == handler
    assert run("in") == 0 and len(lines(tmp_path / "out")[0]) == 3


def test_a_signal_in_a_volume_ends_it_after_the_frame(run, tmp_path):
    write_volume(tmp_path / "in" / "v.dcm", 3)

    def network(tiles):
        signal.raise_signal(signal.SIGTERM)
        return answering.bright(tiles)

    assert run("in", network=network, predict__batch_size="32") == 143
    assert not answered(tmp_path / "out")
    assert run("in", predict__batch_size="32") == 0 and len(lines(tmp_path / "out")[0]) == 3


KILLED = """
import os, signal, sys
sys.path[:0] = ["tests", "tests/support"]
import conftest, answering
from mln_flax.data.core import Unusable
from mln_flax.engine import answers, inputs, predict, session
from mln_flax.engine.predictor import Predictor
predictor = answering.predictor(predict__min_mm2="0")
Predictor.of = classmethod(lambda cls, config, workdir: predictor)
original = answers.files.write_json
def write_json(path, value):
    if path.name == "b.json":
        temporary = path.with_name(f".b.json.{'0' * 16}.tmp")
        temporary.write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, value)
answers.files.write_json = write_json
from pathlib import Path
predict.predict(predictor.run.config, Path("."), [Path(sys.argv[1])], sys.argv[2])
"""


def test_after_a_kill_the_same_command_goes_on(run, tmp_path, capsys):
    images(tmp_path / "in", "a.png", "b.png", "c.png")
    out = tmp_path / "out"
    process = tiny.python("-c", KILLED, tmp_path / "in", out)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    before = answered(out)
    assert set(before) == {"a.json"} and (out / "b_mask.png").exists()
    assert run("in") == 0
    after = answered(out)
    assert set(after) == {"a.json", "b.json", "c.json"} and after["a.json"] == before["a.json"]
    assert not list(out.glob(".*.tmp"))
    assert [line["image"] for line in lines(out)[0]] == ["a.png", "b.png", "c.png"]


def test_no_patient_in_any_file_but_the_dicom_answers(run, tmp_path, capsys):
    image = (answering.mammogram() * 4095).astype(np.uint16)
    (tmp_path / "in").mkdir()
    good = dicoms.write(tmp_path / "in" / "a.dcm", image, bits=12, **exams.UIDS | exams.PRIVATE)
    (tmp_path / "in" / "cut.dcm").write_bytes(good.read_bytes()[:-5000])
    dicoms.write(tmp_path / "in" / "ct.dcm", image, Modality="CT", **exams.PRIVATE)
    dicoms.write(tmp_path / "in" / "sr.dcm", image, Modality="SR", **exams.PRIVATE)
    dicoms.write(tmp_path / "in" / "odd.dcm", image, Modality="ZEBEDEE QUENTINA")
    dicoms.write(tmp_path / "in" / "nostudy.dcm", image, bits=12, **exams.PRIVATE)
    write_volume(tmp_path / "in" / "v.dcm", 2)
    assert run("in") == 1
    secrets = [word.encode() for word in (*PATIENT, *exams.PRIVATE.values())]
    printed = "".join(capsys.readouterr()).encode()
    carrying = set()
    for path in (tmp_path / "out").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(secret in content for secret in secrets):
            carrying.add(path.name)
    assert carrying == {"a_seg.dcm", "a_sr.dcm", "v_seg.dcm", "v_sr.dcm"}
    assert not any(secret in printed for secret in secrets)
    assert len(lines(tmp_path / "out")[0]) == 4 and len(lines(tmp_path / "out")[1]) == 3


def test_a_large_image_is_alone(run, tmp_path, monkeypatch):
    """Nothing waits to be written while it is answered, and nothing is read ahead beside it."""
    images(tmp_path / "in", "a.png", "b.png", "c.png")
    monkeypatch.setattr(session, "LARGE", 1)
    events, original = [], inputs.reader.read

    def read(path, frame=0):
        events.append(path.name)
        return original(path, frame)

    write = answers.write

    def noted(folder, whole, *others):
        write(folder, whole, *others)
        events.append(whole.stem)

    monkeypatch.setattr(inputs.reader, "read", read)
    monkeypatch.setattr(answers, "write", noted)
    assert run("in") == 0
    assert events == ["a.png", "a", "b.png", "b", "c.png", "c"]


def test_the_door(plain_workdir, tmp_path, capsys):
    """From the command line with a trained network, and from Python: the same answer."""
    workdir = shutil.copytree(plain_workdir, tmp_path / "workdir")
    (workdir / "whole.json").unlink(missing_ok=True)  # as a former release left it
    path = answering.save(tmp_path / "in" / "a.png", answering.mammogram(), bits=16)
    before = tiny.snapshot(workdir)
    words = [f"--workdir={workdir}", "--mode=predict", f"--output={tmp_path / 'out'}", str(path)]
    change = ["--config.predict.spacing_mm=0.1", "--config.predict.tile=32"]
    assert main([*words, *change]) == 0
    assert tiny.snapshot(workdir) == before
    assert capsys.readouterr().out.count(NO_POINT) == 1
    predictor = Predictor.from_workdir(workdir, {"predict.tile": "32", "predict.spacing_mm": "0.1"})
    answer = predictor(inputs.read_image(path).image)
    with Image.open(tmp_path / "out" / "a_mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, answer.mask)
    (line,), _ = lines(tmp_path / "out")
    assert line["spacing_from"] == "setting" and [
        w.startswith(NO_POINT) for w in line["warnings"]
    ] == [True]
    assert line["marked_pixels"] == answer.mask.sum()
    err = tiny.refused(capsys, [*words, "--config.predict.spacing_mm=0.2", change[1]])
    assert "other origin (settings)" in err
    (tmp_path / "in" / "b.png").write_bytes(b"x")
    assert main([*words[:3], *change, str(tmp_path / "in")]) == 1


def test_what_a_folder_is_of():
    """Settings that change answers are told apart, those that do not are not."""
    one = origin_of(answering.predictor())
    assert origin_of(answering.predictor(train__cache_compiled="true")) == one
    for change in ({"predict__min_count": "4"}, {"predict__spacing_mm": "0.3"}):
        assert origin_of(answering.predictor(**change)).config != one.config
    other = origin_of(answering.predictor(validation=[{"image_id": "a"}]))
    assert other.config != one.config and other.model == one.model

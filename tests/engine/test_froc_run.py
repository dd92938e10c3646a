"""`--mode=froc`: what is found and what is false in all images of a data set, told by name."""

import csv
import json
import os
import pathlib
import re

import answering
import cbis_trees
import marked_films
import numpy as np
import pytest
import tiny
from PIL import Image

from mln_flax.config import DataConfig
from mln_flax.engine import froc_run, froc_set
from mln_flax.main import main
from mln_flax.metrics import froc
from mln_flax.results import froc_tables, records
from mln_flax.types import UserError

BESIDE = pathlib.Path(__file__).parents[3] / "../shared/data/mini_mias"
REAL = pathlib.Path(os.environ.get("MLN_FLAX_MINI_MIAS") or BESIDE)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """`measure(*folders, **changes)`: the command with a network that marks what is bright."""
    drawn = froc_tables.picture

    def command(
        *folders, output="out", network=answering.bright, overwrite=False, draws=False, **changes
    ):
        monkeypatch.setattr(froc_tables, "picture", drawn if draws else lambda lines: b"png")
        names = {"data__name": "mini_mias", "predict__min_mm2": "0"}
        predictor = answering.predictor(network, spacing_mm=(0.2, 0.2), **names | changes)
        paths = [tmp_path / folder for folder in folders]
        config, out = predictor.run.config, str(tmp_path / output)
        return froc_run.measure_with(predictor, config, paths, out, overwrite, "python")

    return command


def lines(folder):
    return {line["image"]: line for line in records.read_whole(folder / "records.jsonl")}


def numbers(folder):
    return json.loads((folder / "detection.json").read_text())


def test_films_count_for_what_is_known_of_them(measure, tmp_path, capsys):
    marked_films.write(tmp_path / "films")
    assert measure("films") == 0
    out, found = tmp_path / "out", lines(tmp_path / "out")
    assert sorted(found) == [f"mdb{film:03d}.pgm" for film in (1, 2, 3, 4, 5)]
    normal = [name for name, line in found.items() if line["detection"]["normal"]]
    assert normal == ["mdb001.pgm", "mdb002.pgm", "mdb005.pgm"]
    hits = {name: [t["hit"] for t in line["truths"]] for name, line in found.items()}
    assert hits["mdb003.pgm"] == [True] and hits["mdb004.pgm"] == [False]
    assert [len(line["clusters"]) for line in found.values()] == [0, 1, 1, 1, 1]
    assert froc_set.OTHER_FINDINGS in found["mdb005.pgm"]["notes"]
    stored = numbers(out)
    reasons = {each["image"]: each["reason"] for each in stored["left_out"]}
    assert set(reasons) == {"mdb006.pgm", "mdb007.pgm"}
    assert "without a circle" in reasons["mdb006.pgm"]
    assert "outside the breast" in reasons["mdb007.pgm"]
    point = stored["results"]["mini_mias"]["operating_point"]
    assert (point["clusters"]["part"], point["clusters"]["whole"]) == (1, 2)
    assert (point["false"]["part"], point["false"]["whole"]) == (2, 3)
    said = capsys.readouterr().out
    assert "mdb007.pgm: not counted" in said and "1 of 2" in said and "2 on 3" in said


def test_the_point_agrees_with_the_curve_and_the_page_with_its_files(measure, tmp_path):
    level = 15
    marked_films.write(tmp_path / "films")
    measure("films", predict__threshold=str(froc.THRESHOLDS[level]), draws=True)
    out = tmp_path / "out"
    result = numbers(out)["results"]["mini_mias"]
    assert (
        result["clusters"]["sensitivity"][level] == result["operating_point"]["clusters"]["value"]
    )
    rate = result["operating_point"]["false"]["value"]
    assert result["clusters"]["false_per_image"][level] == pytest.approx(rate)
    page = (out / "index.html").read_text()
    sources = re.findall(r'<img loading="lazy" src="([^"]+)"', page)
    # One found and one missed, two false, and the mark beside the missed one.
    assert len(sources) == len(set(sources)) == 5
    for source in sources:
        with Image.open(out / source) as crop:
            assert crop.size[1] == 300
    for heading in ("Missed clusters (1)", "False clusters (2)", "Found clusters (1)"):
        assert heading in page
    for link in re.findall(r'<a href="([^"#]+)"', page):
        assert (out / link).is_file(), link
    with open(out / "clusters.csv", newline="") as file:
        what = [row["what"] for row in csv.DictReader(file)]
    assert sorted(what) == ["false", "false", "false, not counted", "found", "missed"]
    assert (out / "froc.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_answered_is_not_answered_again(measure, tmp_path, capsys):
    marked_films.write(tmp_path / "films")
    asked = []

    def dying(tiles):
        asked.append(len(tiles))
        if len(asked) > 20:
            raise SystemExit  # as a kill: no handler of errors sees it
        return answering.bright(tiles)

    with pytest.raises(SystemExit):
        measure("films", network=dying)
    assert not (tmp_path / "out" / "index.html").exists()
    done = len(list((tmp_path / "out" / "images").glob("*.json")))
    assert 0 < done < 5
    capsys.readouterr()
    assert measure("films") == 0
    assert capsys.readouterr().out.count("done already") == done
    first = numbers(tmp_path / "out")
    assert measure("films", network=dying) == 0 and numbers(tmp_path / "out") == first
    path = tmp_path / "films" / "mdb001.pgm"  # another film in its place is answered
    path.write_bytes((tmp_path / "films" / "mdb002.pgm").read_bytes())
    assert measure("films") == 0
    assert len(lines(tmp_path / "out")["mdb001.pgm"]["clusters"]) == 1


def test_other_settings_and_sets_are_refused_by_name(measure, tmp_path):
    marked_films.write(tmp_path / "films", [1, 3])
    marked_films.write(tmp_path / "more", [2])
    assert measure("films") == 0
    with pytest.raises(UserError, match="another settings"):
        measure("films", predict__threshold="0.9")
    with pytest.raises(UserError, match="another data set"):
        measure("films", "more")
    assert measure("films", overwrite=True, predict__threshold="0.99") == 0
    assert not any(line["clusters"] for line in lines(tmp_path / "out").values())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        measure("films", output="notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["diary.txt"]
    with pytest.raises(UserError, match="--output is missing"):
        froc_run.measure_with(None, None, [], "")


def test_folders_together_are_one_set(measure, tmp_path):
    marked_films.write(tmp_path / "films", [1, 3, 6])
    marked_films.write(tmp_path / "more", [2, 3, 4])
    assert measure("films", "more") == 0
    found = lines(tmp_path / "out")
    assert sorted(found) == ["1/mdb001.pgm", "1/mdb003.pgm", "2/mdb002.pgm", "2/mdb004.pgm"]
    patients = {name: line["patient_id"] for name, line in found.items()}
    assert patients["1/mdb001.pgm"] == patients["2/mdb002.pgm"]
    assert patients["1/mdb003.pgm"] == patients["2/mdb004.pgm"] != patients["1/mdb001.pgm"]
    reasons = {each["image"]: each["reason"] for each in numbers(tmp_path / "out")["left_out"]}
    assert "same file as 1/mdb003.pgm" in reasons["2/mdb003.pgm"]
    # Film 6 is there, in the first folder; 5 and 7 are in neither, and are named once.
    assert set(reasons) == {"2/mdb003.pgm", "1/mdb005.pgm", "1/mdb006.pgm", "1/mdb007.pgm"}
    with pytest.raises(UserError, match="named twice"):
        measure("films", "films", output="other")


def test_names_are_hidden_where_it_is_asked_for(measure, tmp_path):
    marked_films.write(tmp_path / "films")
    assert measure("films", data__hide_names="true") == 0
    for path in (tmp_path / "out").rglob("*"):
        assert "mdb" not in path.name
        if path.suffix in (".json", ".jsonl", ".csv", ".html"):
            assert "mdb" not in path.read_text() and str(tmp_path) not in path.read_text()


def test_an_image_that_fails_loses_no_other(measure, tmp_path, capsys):
    marked_films.write(tmp_path / "films", [1, 2, 3])
    kept = answering.bright
    passes = []

    def failing(tiles):
        passes.append(1)
        return np.full(tiles.shape, np.nan, np.float32) if len(passes) == 1 else kept(tiles)

    assert measure("films", network=failing) == 0
    assert sorted(lines(tmp_path / "out")) == ["mdb002.pgm", "mdb003.pgm"]
    assert "mdb001.pgm: not counted: the network's answer is no number" in capsys.readouterr().out
    with pytest.raises(UserError, match="mdb00"):
        measure("films", output="strict", data__on_error="stop")


def test_parts_of_a_set_that_names_none_are_refused(measure, tmp_path):
    marked_films.write(tmp_path / "films")
    with pytest.raises(UserError, match="names no parts itself"):
        measure("films", evaluate__part="test")


def test_parts_of_a_set_that_names_them(tmp_path):
    cbis_trees.write(tmp_path, "tables")
    data = DataConfig(name="cbis_ddsm", dir=str(tmp_path))
    sets = {part: froc_set.images(data, [tmp_path], part) for part in ("", "train", "test")}
    ids = {part: {image.image_id for image in each.images} for part, each in sets.items()}
    assert ids["train"] and ids["test"] and not ids["train"] & ids["test"]
    assert ids["train"] | ids["test"] == ids[""]
    assert {image.entry.part for image in sets["test"].images} == {"test"}


def test_images_without_truth_give_false_clusters_alone(measure, tmp_path):
    for name, dots in (("a", ()), ("b", answering.DOTS)):
        answering.save(tmp_path / "in" / f"{name}.png", answering.mammogram(dots=dots))
    assert measure("in", data__name="normal", draws=True) == 0
    result = numbers(tmp_path / "out")["results"]["normal"]["operating_point"]
    assert result["false"]["value"] == 0.5 and result["clusters"]["value"] is None


def test_single_calcifications_make_clusters_by_the_rule(measure, tmp_path):
    """A folder of one's own with masks of pixels: the dots are one labeled cluster."""
    image = answering.mammogram()
    mask = np.zeros(image.shape)
    for row, column in answering.DOTS:
        mask[row : row + 2, column : column + 2] = 1
    answering.save(tmp_path / "in" / "images" / "a.png", image)
    answering.save(tmp_path / "in" / "masks" / "a.png", mask)
    answering.save(tmp_path / "in" / "images" / "b.png", answering.mammogram(dots=()))
    answering.save(tmp_path / "in" / "masks" / "b.png", 0 * mask)
    assert measure("in", data__name="folder", predict__spacing_mm="0.2") == 0
    found = lines(tmp_path / "out")
    assert [t["hit"] for t in found["images/a.png"]["truths"]] == [True]
    assert found["images/a.png"]["detection"]["objects"] == len(answering.DOTS)
    assert froc_tables.kind_of_image(found["images/b.png"]) == "without calcifications"


def test_through_the_door_with_a_trained_model(plain_workdir, tmp_path, capsys):
    """The data set is that of the config file, all else is the model's."""
    films = marked_films.write(tmp_path / "films", [1, 3])
    before = tiny.snapshot(plain_workdir)
    words = ["--mode=froc", f"--workdir={plain_workdir}", f"--output={tmp_path / 'out'}"]
    words += [f"--config={tiny.ROOT / 'configs' / 'mini_mias.py'}", f"--config.data.dir={films}"]
    assert main(words) == 0
    assert tiny.snapshot(plain_workdir) == before
    assert len(lines(tmp_path / "out")) == 2 and "Sensitivity" in capsys.readouterr().out
    assert str(films) not in (tmp_path / "out" / "index.html").read_text()
    assert "another settings" in tiny.refused(capsys, [*words, "--config.predict.threshold=0.3"])
    assert "data.size" in tiny.refused(capsys, [*words, "--config.data.size=64"])
    assert "not a data set of files" in tiny.refused(capsys, words[:3])


@pytest.mark.skipif(not (REAL / "mdb211.pgm").exists(), reason="the real films are not here")
def test_two_real_films():
    images = froc_set.images(DataConfig(name="mini_mias", dir=str(REAL)), [REAL]).images
    wanted = [image for image in images if image.name in ("mdb211.pgm", "mdb210.pgm")]
    (normal, _), (labeled, _) = (image.read() for image in wanted)
    assert not normal.mask.any() and labeled.label_kind == "cluster"
    middle = np.argwhere(labeled.mask).mean(axis=0)  # Info.txt: 680 327, from the bottom
    np.testing.assert_allclose(middle, (1024 - 327, 680), atol=0.1)

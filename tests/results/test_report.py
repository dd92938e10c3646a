import dataclasses
import io
import re

import numpy as np
import pytest
import whole_records
from PIL import Image

from mln_flax import files
from mln_flax.config import Config
from mln_flax.methods.mln import study
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.metrics import pixel
from mln_flax.results import plots, records, report, tables
from mln_flax.types import UserError

BRANCHES = ["identity", "invert"]
SIZE = 32


def make_records(random):
    lines = []
    for domain, role in (("ffdm", "source"), ("film <b>", "target")):
        for number in range(4):
            mask, *predictions = random.random((3, SIZE, SIZE)) < 0.02
            maps = dict(zip(BRANCHES, predictions, strict=True))
            maps |= dict.fromkeys(("union", "weighted"), predictions[0] | predictions[1])
            lines.append(
                {
                    "kind": "image",
                    "image_id": f"{domain}-{number}",
                    "patient_id": f"Jane Doe {number}",
                    "domain": domain,
                    "role": role,
                    "spacing_mm": [0.1, 0.1],
                    "branches": BRANCHES,
                    "selection": "image",
                    "answer": "image",
                    "distances": {"cosine": [0.1, 0.2], "image": [float(number % 2), 0.5]},
                    "chosen": {"cosine": 0, "image": number % 2},
                    "scores": {
                        name: pixel.image_scores(each, mask, (0.1, 0.1))
                        for name, each in maps.items()
                    },
                    "answered_by": BRANCHES[number % 2],
                }
            )
    for branch, name in enumerate(BRANCHES):
        chosen = {"cosine": 0, "image": branch}
        shared = {"branches": BRANCHES, "selection": "image", "chosen": chosen}
        lines += [{"kind": "view", "view": name, "branch": branch, **shared}] * 3
    return lines


@pytest.fixture
def workdir(tmp_path):
    random = np.random.default_rng(0)
    config = dataclasses.asdict(Config())
    config["train"]["steps"] = 7654
    files.write_json(tmp_path / "config.json", config)
    files.write_json(
        tmp_path / "environment.json",
        {"command": "python -m mln_flax.main", "commit": "abc123", "devices": ["cpu"]},
    )
    files.write_json(
        tmp_path / "data.json",
        {
            "notes": ["four & more tiles"],
            "left_out": [{"item": f"secret{n}", "reason": "film not there"} for n in range(3)],
            "parts": [
                {"domain": "ffdm", "part": "test", "images": 4, "patients": 4, "label_pixels": 9}
            ],
        },
    )
    records.write(
        tmp_path / "train.jsonl",
        [
            {"step": 20, "loss": 0.5, "dice": 0.5},
            {"step": 20, "validation_dsc": 0.4, "validation_dsc_per_view": {"identity": 0.4}},
            {"step": 40, "loss": 0.4, "dice": 0.6},
        ],
    )
    records.write_whole(tmp_path / "records.jsonl", make_records(random))
    image = random.integers(0, 256, (2, SIZE, SIZE), np.uint8)
    mask, prediction = (random.random((2, 2, SIZE, SIZE)) < 0.02).astype(np.uint8)
    np.savez(
        tmp_path / "examples.npz",
        image=image,
        mask=mask,
        prediction=prediction,
        domain=np.array(["ffdm", "film <b>"]),
        image_id=np.array(["ffdm-1", "film <b>-0"]),
        answered_by=np.array(["invert", "identity"]),
        dsc=np.array([0.25, 0.125]),
    )
    np.savez(tmp_path / "sheet.npz", image=image, mask=mask, title=np.array(["one $", "two"]))
    return tmp_path


def write(workdir):
    """The report with what MLN-net shows."""
    return report.write(workdir, study.STUDY, MlnSettings(selection="image"))


def test_the_page_shows_the_numbers(workdir):
    path = write(workdir)
    assert path == workdir / "report" / "index.html"
    text = path.read_text(encoding="utf-8")
    lines = records.read_whole(workdir / "records.jsonl")
    for make in (
        tables.results_table,
        tables.kinds_table,
        tables.distance_table,
        study.selection_table,
        study.view_accuracy_table,
    ):
        assert make(lines).to_html() in text
    for words in (
        *("7654 (default 1000)", "abc123", "python -m mln_flax.main", "four &amp; more tiles"),
        *("DSC 0.250, by invert, line 2 of records.jsonl", "film not there"),
        *("not a medical device", "image&#x27;s diagonal"),
    ):
        assert words in text


def test_early_choices_are_shown_where_they_were_recorded(workdir):
    assert "Early choice" not in write(workdir).read_text(encoding="utf-8")
    lines = records.read_whole(workdir / "records.jsonl")
    lines = [line | {"chosen_early": line["chosen"] | {"cosine": 1}} for line in lines]
    records.write_whole(workdir / "records.jsonl", lines)
    text = write(workdir).read_text(encoding="utf-8")
    assert study.early_table(lines).to_html() in text and "Early choice" in text


def test_the_limits_fit_the_data(workdir):
    text = write(workdir).read_text(encoding="utf-8")
    assert "Phantoms are drawn" in text and "whole clusters" not in text
    config = files.read_json(workdir / "config.json")
    config["data"]["name"] = "mini_mias"
    files.write_json(workdir / "config.json", config)
    lines = records.read_whole(workdir / "records.jsonl")
    lines[0]["label_kind"] = "cluster"
    records.write_whole(workdir / "records.jsonl", lines)
    text = write(workdir).read_text(encoding="utf-8")
    assert "Phantoms are drawn" not in text and "calcifications, on: ffdm." in text


def test_the_page_stands_alone_and_names_nobody(workdir):
    text = write(workdir).read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert set(re.findall(r'src="([^,]{0,22})', text)) == {"data:image/png;base64"}
    assert "film &lt;b&gt;" in text and "<b>" not in text
    for private in ("Jane Doe", "secret", "ffdm-1"):
        assert private not in text


def test_the_pictures_lie_beside_the_page(workdir):
    folder = write(workdir).parent
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {
        "training",
        "choices-image",
        "choices-cosine",
        "sheet",
        "example-01-ffdm",
        "example-02-film-b",
    }
    for path in folder.glob("*.png"):
        Image.open(path).verify()
    assert {path.suffix for path in folder.iterdir()} == {".png", ".html"}
    (workdir / "sheet.npz").unlink()
    text = write(workdir).read_text(encoding="utf-8")
    assert "holds no contact sheet" in text and not (folder / "sheet.png").exists()


def test_the_page_is_a_function_of_the_records(workdir):
    before = write(workdir).read_bytes()
    assert write(workdir).read_bytes() == before
    lines = records.read_whole(workdir / "records.jsonl")
    lines[0]["scores"][lines[0]["answered_by"]]["dsc"] = 0.99
    records.write_whole(workdir / "records.jsonl", lines)
    assert write(workdir).read_bytes() != before


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("config.json", "train"),
        ("environment.json", "train"),
        ("data.json", "train"),
        ("train.jsonl", "train"),
        ("records.jsonl", "evaluate"),
        ("examples.npz", "evaluate"),
    ],
)
def test_a_missing_file_is_named_with_its_mode(workdir, name, mode):
    (workdir / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing: --mode={mode}"):
        write(workdir)
    assert not (workdir / "report").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_broken_file_of_arrays(workdir, content):
    (workdir / "examples.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"examples\.npz: cannot be read"):
        write(workdir)


def test_pictures_of_the_first_release_are_shown(workdir):
    """There the map that answers was called its branch."""
    wanted = write(workdir).read_bytes()
    with np.load(workdir / "examples.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(workdir / "examples.npz", branch=arrays.pop("answered_by"), **arrays)
    assert write(workdir).read_bytes() == wanted


def test_missing_fields_and_lines(workdir):
    np.savez(workdir / "examples.npz", image=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"examples\.npz: has no .*mask"):
        write(workdir)


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("records.jsonl", [], "no view|no image"),
        ("records.jsonl", [{"kind": "view", "selection": "image"}], "lacks the field 'view'"),
        ("train.jsonl", [], "holds no loss"),
    ],
)
def test_results_that_cannot_be_shown(workdir, name, lines, words):
    as_lines = records.write if name == "train.jsonl" else records.write_whole
    as_lines(workdir / name, lines)
    with pytest.raises(UserError, match=words):
        write(workdir)


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_every_pixel_of_an_example_has_its_color():
    image = np.full((SIZE, SIZE), 100, np.uint8)
    mask, prediction = np.zeros((2, SIZE, SIZE), np.uint8)
    mask[10, 10] = prediction[10, 10] = mask[12, 10] = prediction[12, 12] = 1
    colors = picture(plots.example(image, mask, prediction)).reshape(-1, 3)
    scale = 384 // SIZE
    for name in plots.COLORS:
        rgb = [int(plots.COLORS[name][i : i + 2], 16) for i in (1, 3, 5)]
        # Once in the overview and once, three times larger, in the close-up; and in the legend.
        assert (colors == rgb).all(axis=1).sum() >= scale**2 * (1 + 9)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (40, 30), (500, 350), (2, 1)])
def test_examples_of_any_shape(shape):
    empty = np.zeros(shape, np.uint8)
    full = np.ones(shape, np.uint8)
    for mask, prediction in ((empty, empty), (full, empty), (full, full)):
        assert plots.example(empty, mask, prediction).startswith(b"\x89PNG")


def test_contact_sheets():
    image = np.zeros((SIZE, SIZE), np.uint8)
    one = picture(plots.contact_sheet([(image, None, "a")]))
    five = picture(plots.contact_sheet([(image, image + 1, "a")] * 5))
    assert five.shape[0] > one.shape[0] and five.shape[1] > one.shape[1] * 3
    with pytest.raises(ValueError, match="0 pictures"):
        plots.contact_sheet([])


def test_a_later_line_about_a_step_counts():
    lines = [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.3}]
    again = [{"step": 40, "loss": 0.9}, *lines]
    assert plots.training_curve(again) == plots.training_curve(lines)


def test_every_scalar_of_training_is_drawn():
    """Whatever a method calls them; another loss stands beside the first."""
    lines = [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.3}]
    more = [{"step": 30, "loss": 0.5, "loss_of_domains": 0.2}, {"step": 30, "dice": 0.7}]
    pictures = [plots.training_curve(part) for part in (lines, lines + more[:1], lines + more)]
    assert len(set(pictures)) == 3


def test_whole_images_are_shown_where_they_were_measured(workdir):
    lines = records.read_whole(workdir / "records.jsonl")
    found = whole_records.record_of([1, 1], [2, 0])
    normal = whole_records.record_of([0], [1, 0], references=0, normal=True)
    lines += [
        whole_records.whole("ffdm", found, [(0.9, True), (0.6, False)]) | {"picture": "ffdm-best"},
        whole_records.whole("ffdm", normal),
    ]
    records.write_whole(workdir / "records.jsonl", lines)
    (workdir / "whole").mkdir()
    png = plots.contact_sheet([(np.zeros((8, 8), np.uint8), None, "")])
    (workdir / "whole" / "ffdm-best.png").write_bytes(png)
    text = report.write(workdir).read_text(encoding="utf-8")
    assert ">Whole images</h2>" in text and "Sensitivity, clusters" in text
    assert "ffdm, best case: 2 labeled clusters, 1 marked ones are right, 1 are false" in text
    assert (workdir / "report" / "whole-ffdm-best.png").read_bytes() == png
    assert (workdir / "report" / "froc.png").is_file()


def test_the_page_of_a_method_without_a_study(workdir):
    """Its records hold one map, and its page nothing about branches."""
    facts = ("branches", "selection", "answer", "distances", "chosen")
    lines = []
    for line in records.read_whole(workdir / "records.jsonl"):
        if line["kind"] == "image":
            kept = {name: value for name, value in line.items() if name not in facts}
            lines.append(kept | {"scores": {"network": line["scores"]["identity"]}})
            lines[-1]["answered_by"] = "network"
    records.write_whole(workdir / "records.jsonl", lines)
    text = report.write(workdir).read_text(encoding="utf-8")
    assert tables.results_table(lines).to_html() in text
    assert "Branch choice" not in text and "All selections" not in text
    assert not list((workdir / "report").glob("choices*"))

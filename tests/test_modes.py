"""A whole run through the door with the shipped demo's settings, made tiny."""

import shutil

import numpy as np
import pytest
import tiny

from mln_flax.engine import workdir as workdirs
from mln_flax.locks import LOCK
from mln_flax.main import main
from mln_flax.methods.mln import branches, recorded
from mln_flax.results import records

DOMAINS = ("ffdm", "dbt", "film", "processing")
FINAL = ("config.json", "records.jsonl", "data.json", "report/index.html")


@pytest.fixture(scope="module")
def lines(tiny_workdir):
    return records.read_whole(tiny_workdir / "records.jsonl")


@pytest.fixture
def copy(plain_workdir, tmp_path):
    """A workdir that a test may write to."""
    return shutil.copytree(plain_workdir, tmp_path / "run")


def test_every_image_of_source_and_targets_has_one_record(lines):
    images = [line for line in lines if line["kind"] == "image"]
    assert len({line["image_id"] for line in images}) == len(images)
    for domain in DOMAINS:
        own = [line for line in images if line["domain"] == domain]
        assert len(own) == tiny.TEST_IMAGES
        assert {line["role"] for line in own} == {"source" if domain == "ffdm" else "target"}
    assert {line["domain"] for line in images} == set(DOMAINS)
    for line in images:
        assert set(line["chosen_early"]) == set(branches.SELECTIONS)
        assert set(line["chosen"]) == set(line["distances"]) == set(branches.SELECTIONS)
        for rule, distances in line["distances"].items():
            assert len(distances) == 3 and line["chosen"][rule] == int(np.argmin(distances))
        assert line["branches"] == list(tiny.VIEWS) and line["selection"] == "polarity"
        assert line["answer"] == "polarity"
        assert line["answered_by"] == tiny.VIEWS[line["chosen"]["polarity"]]
        assert list(line["scores"]) == [*tiny.VIEWS, *recorded.TOGETHER]
        assert all(0 <= score["dsc"] <= 1 for score in line["scores"].values())


def test_every_view_of_every_source_image_has_one_record(lines):
    views = [line for line in lines if line["kind"] == "view"]
    pairs = [(line["image_id"], line["view"], line["branch"]) for line in views]
    images = [line for line in lines if line["kind"] == "image"]
    ids = {line["image_id"] for line in images if line["domain"] == "ffdm"}
    wanted = [(one, view, branch) for one in ids for branch, view in enumerate(tiny.VIEWS)]
    assert sorted(pairs) == sorted(wanted) and len(wanted) == 3 * tiny.TEST_IMAGES
    assert len(images) == 4 * tiny.TEST_IMAGES


def test_every_rule_by_moments_has_a_record_of_its_norms_in_every_domain(lines):
    norms = [line for line in lines if line["kind"] == "norms"]
    pairs = [(line["domain"], line["rule"]) for line in norms]
    assert sorted(pairs) == sorted((d, rule) for d in DOMAINS for rule in branches.BY_MOMENTS)
    rules = [line["rule"] for line in lines if line["kind"] == "rule"]
    assert rules == [*branches.SELECTIONS, *recorded.FITTED, recorded.MATCHED]
    assert {line["kind"] for line in lines} == {"image", "view", "norms", "rule"}


@pytest.mark.parametrize("kind", ["tiny", "plain"])
def test_the_workdir_holds_what_the_design_says(kind, request):
    workdir = request.getfixturevalue(f"{kind}_workdir")
    for name in (*FINAL, "environment.json", "train.jsonl", "checkpoints", "model"):
        assert (workdir / name).exists(), name
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert all(domain in page for domain in DOMAINS)
    assert ("View accuracy" in page) == (kind == "tiny")  # branches are one method's own
    assert [p.name for p in workdir.glob(".*")] == [LOCK]  # no half-written files


def test_the_same_command_again_says_done_and_changes_nothing(copy, capsys):
    before = tiny.snapshot(copy)
    capsys.readouterr()
    assert main(tiny.flags(copy, **tiny.PLAIN)) == 0
    out = capsys.readouterr().out
    assert "training: done already (4 steps" in out and "evaluation: done already" in out
    after = tiny.snapshot(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert all(name.startswith(str(copy / "report")) for name in changed)
    assert set(after) == set(before)


def test_evaluate_again_gives_identical_records(copy, plain_workdir):
    (copy / "records.jsonl").unlink()
    # Settings under evaluate may change; without pictures the report is still a page.
    more = ["--mode=evaluate", "--config.evaluate.examples=0"]
    assert main([f"--workdir={copy}", *more]) == 0
    found, wanted = ((folder / "records.jsonl").read_bytes() for folder in (copy, plain_workdir))
    assert found == wanted
    assert not list((copy / "report").glob("example*"))


def test_the_report_is_a_function_of_the_other_files(copy, plain_workdir):
    shutil.rmtree(copy / "report")
    assert main([f"--workdir={copy}", "--mode=report"]) == 0
    names = {path.name for path in (plain_workdir / "report").iterdir()}
    assert {path.name for path in (copy / "report").iterdir()} == names
    for name in names:
        wanted = (plain_workdir / "report" / name).read_bytes()
        assert (copy / "report" / name).read_bytes() == wanted, name


def test_prepare_describes_the_data_and_trains_nothing(tmp_path, plain_workdir, capsys):
    workdir = tmp_path / "run"
    assert main([*tiny.flags(workdir, **tiny.PLAIN), "--mode=prepare"]) == 0
    assert sorted(path.name for path in workdir.iterdir()) == [
        LOCK,
        "config.json",
        "data.json",
        "sheet.npz",
    ]
    assert (workdir / "data.json").read_bytes() == (plain_workdir / "data.json").read_bytes()
    assert "data: ffdm train: 6 phantoms" in capsys.readouterr().out


def test_summary_needs_no_workdir(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = tiny.flags("", model__name="unet", model__widths="4")
    words = [word for word in flags if not word.startswith("--workdir")]
    assert main([*words, "--mode=summary"]) == 0
    out = capsys.readouterr().out
    assert "shared + 3 x" in out and "per branch" in out and "GiB" in out
    assert not list(tmp_path.iterdir())


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    changed = {}
    monkeypatch.setattr(workdirs.jax.config, "update", changed.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    workdirs.cache_compiled(tiny.config())
    assert not changed
    workdirs.cache_compiled(tiny.config(train__cache_compiled="true"))
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "mln_flax")


def test_the_commit_is_known_or_said_to_be_unknown(monkeypatch, tmp_path):
    assert workdirs.commit()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workdirs.commit() == "unknown"

import math

import numpy as np
import pytest

from mln_flax import files
from mln_flax.results import records
from mln_flax.types import UserError

LINES = [{"kind": "image", "dsc": 0.25, "name": "Bézier\u2028 \n"}, {"kind": "view", "chosen": [1]}]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "records.jsonl"
    records.write(path, LINES)
    assert records.read(path) == LINES
    assert path.read_text().count("\n") == len(LINES)
    records.write(path, [])
    assert records.read(path) == []


@pytest.mark.parametrize("lines", [LINES, []])
def test_a_whole_file_counts_its_lines(lines, tmp_path):
    path = tmp_path / "records.jsonl"
    records.write_whole(path, lines)
    assert records.read_whole(path) == lines
    whole = path.read_text().splitlines(keepends=True)
    cut = [whole[:n] for n in range(len(whole))]
    for kept in (*cut, whole[1:], [*whole, whole[0]]):
        if kept != whole:
            path.write_text("".join(kept))
            with pytest.raises(UserError, match=r"records.jsonl: cut short: .* have it made again"):
                records.read_whole(path)


def test_records_of_the_first_release_are_renewed(tmp_path):
    """There the scores of the branches were a list, in the order of the branches."""
    path, scores = tmp_path / "records.jsonl", [{"dsc": 0.5}, {"dsc": 0.25}]
    old = {"kind": "image", "branches": ["identity", "invert"], "selection": "cosine"}
    records.write_whole(path, [old | {"scores": {"branch": scores, "union": {"dsc": 1.0}}}])
    (line,) = records.read_whole(path)
    named = {"identity": scores[0], "invert": scores[1], "union": {"dsc": 1.0}}
    assert line == old | {"scores": named, "answer": "cosine"}
    records.write_whole(path, [line])
    assert records.read_whole(path) == [line]  # once, and never again


def test_numpy_becomes_json_and_nan_becomes_null(tmp_path):
    path = tmp_path / "records.jsonl"
    record = {
        "nan": math.nan,
        "inner": [{"inf": np.float32(np.inf)}],
        "count": np.int64(3),
        "row": np.array([[1.5, np.nan]]),
        "flag": np.bool_(True),
        "pair": (1, 2),
    }
    records.write(path, [record])
    (back,) = records.read(path)
    assert back == {
        "nan": None,
        "inner": [{"inf": None}],
        "count": 3,
        "row": [[1.5, None]],
        "flag": True,
        "pair": [1, 2],
    }


def test_a_failing_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    records.write(path, LINES)

    def refuse(*_):
        raise OSError("no space")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        records.write(path, LINES[:1])
    with pytest.raises(TypeError):
        records.write(path, [{"object": object()}])
    monkeypatch.undo()
    assert records.read(path) == LINES
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize("broken", ['{"a": 1', "[1]", "3", '{"a": NaN}', "nonsense"])
def test_a_broken_line_is_named(tmp_path, broken):
    path = tmp_path / "records.jsonl"
    path.write_text(f'{{"a": 0}}\n{broken}\n{{"a": 2}}\n')
    for tolerant in (False, True):
        with pytest.raises(UserError, match=r"records\.jsonl, line 2"):
            records.read(path, tolerant=tolerant)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        records.read(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        records.read(tmp_path / "binary")


def test_lines_are_appended(tmp_path):
    path = tmp_path / "train.jsonl"
    for step in range(3):
        records.append(path, {"step": step})
    assert records.read(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_file_cut_at_any_byte_can_be_read_and_continued(tmp_path):
    path = tmp_path / "train.jsonl"
    first, second = {"step": 1, "view": "Bézier"}, {"step": 2, "loss": 0.5}
    records.write(path, [first, second])
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = records.read(path, tolerant=True)
        assert kept == [first, second][: len(kept)]
        records.append(path, {"step": 3})
        assert records.read(path) == [*kept, {"step": 3}]
    path.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="line 2"):
        records.read(path)

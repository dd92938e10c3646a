import errno
import json
import math
import os

import pytest

from mln_flax import files
from mln_flax.types import UserError


def test_json_values(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(path, {"a": (1, 2), "b": {"c": math.nan, "d": "é"}})
    assert files.read_json(path) == {"a": [1, 2], "b": {"c": None, "d": "é"}}
    assert json.loads(path.read_text(encoding="utf-8"))["b"]["d"] == "é"
    path.write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        files.read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        files.read_json(tmp_path / "none.json")


def test_a_half_written_file_of_another_container_is_not_ours(tmp_path, monkeypatch):
    """Two processes of one number, as containers have them, write one file at the same time."""
    path, real = tmp_path / "a.json", os.replace

    def while_another_writes(temporary, target):
        monkeypatch.setattr(os, "replace", real)
        files.write_bytes(path, b"second")
        real(temporary, target)

    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(os, "replace", while_another_writes)
    files.write_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_the_machine_refuses_names_the_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(OSError) as missing:
        files.write_bytes(tmp_path / "none" / "a.json", b"")
    assert files.refusal(missing.value) == f"{tmp_path}/none/a.json: No such file or directory"

    def full(_number):
        raise OSError(errno.ENOSPC, "No space left on device")  # without a name, as write() has it

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write_bytes(path, b"x")
    line = files.refusal(caught.value)
    assert line == f"{path}: No space left on device; free space and give the same command again"
    assert not list(tmp_path.iterdir())
    assert "see to its permissions" in files.refusal(PermissionError(errno.EACCES, "no", "x"))
    assert files.refusal(OSError("two\nlines")) == "two lines"
    assert files.refusal(TimeoutError()) == "TimeoutError"


def test_paths_of_other_encodings_come_back_from_json(tmp_path):
    odd = os.fsdecode(b"/data/M\xfcller/\xe4")
    files.write_json(tmp_path / "config.json", {"dir": odd, odd: "é"})
    assert files.read_json(tmp_path / "config.json") == {"dir": odd, odd: "é"}


def test_names_that_are_too_long_end_in_their_hash():
    assert files.fitting("a", "_mask.png") == "a_mask.png"
    long = [files.fitting("é" * 300 + last, ".png") for last in "ab"]
    assert len(set(long)) == 2
    assert all(0 <= files.MOST_BYTES - len(name.encode()) <= 1 for name in long)

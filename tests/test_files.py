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


def test_paths_of_other_encodings_come_back_from_json(tmp_path):
    odd = os.fsdecode(b"/data/M\xfcller/\xe4")
    files.write_json(tmp_path / "config.json", {"dir": odd, odd: "é"})
    assert files.read_json(tmp_path / "config.json") == {"dir": odd, odd: "é"}


def test_names_that_are_too_long_end_in_their_hash():
    assert files.fitting("a", "_mask.png") == "a_mask.png"
    long = [files.fitting("é" * 300 + last, ".png") for last in "ab"]
    assert len(set(long)) == 2
    assert all(0 <= files.MOST_BYTES - len(name.encode()) <= 1 for name in long)

import json
import math

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

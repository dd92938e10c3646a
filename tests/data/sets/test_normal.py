import numpy as np
import pytest
from PIL import Image

from mln_flax.config import DataConfig
from mln_flax.data.core import collections
from mln_flax.data.sets import normal
from mln_flax.types import UserError


def settings(folder):
    return DataConfig(name="normal", dir=str(folder), source="normal", targets=())


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    row, column = np.mgrid[:40, :40]
    inside = np.hypot(row - 20, column) < 18
    Image.fromarray(np.where(inside, 120 + row, 8).astype(np.uint8)).save(path)


def test_every_image_is_one_without_calcifications(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "deep" / "b.tif")
    (tmp_path / "notes.txt").write_text("nothing")
    index = collections["normal"]().index(settings(tmp_path))
    assert [(e.key, e.patient, e.domain) for e in index.entries] == [
        ("a", "a", "normal"),
        ("deep/b", "deep/b", "normal"),
    ]
    assert [item for item, _ in index.left_out] == [str(tmp_path / "notes.txt")]
    example = normal.read(index.entries[0], settings(tmp_path)).example
    assert example.label_kind == "none" and not example.mask.any()
    assert example.mask.shape == example.image.shape == (40, 40) and example.spacing_mm is None


def test_what_is_no_single_image_is_left_out(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "a.tif")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    index = normal.index(settings(tmp_path))
    assert index.entries == () and len(index.left_out) == 3
    assert sum("several images" in reason for _, reason in index.left_out) == 2
    with pytest.raises(UserError, match="data.dir"):
        normal.index(settings(tmp_path / "nowhere"))

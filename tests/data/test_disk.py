"""What counts as a file, what is reported as not here, and how names are spelled."""

import os
import unicodedata

import pytest

from mln_flax.data import disk
from mln_flax.data.prepare import identity
from mln_flax.data.readers import reader

CLUTTER = (
    *("._a.png", ".DS_Store", ".~lock.table.csv#", "~$table.csv", "Thumbs.db", "desktop.ini"),
    *(".git/annex/x.png", "__MACOSX/a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png"),
)


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"any")


def inside(root, **how):
    return [path.relative_to(root).as_posix() for path in disk.listing(root, **how).files]


def test_clutter_and_folders_are_no_files(tmp_path):
    root = tmp_path / ".hidden"  # the name of the folder itself does not matter
    write(root, "b.png", "a/c.csv", *CLUTTER)
    (root / "table.csv").mkdir()
    os.mkfifo(root / "pipe.png")
    assert inside(root) == ["a/c.csv", "b.png"] and inside(root, below=False) == ["b.png"]
    assert disk.listing(root).absent == ()
    assert reader.find(root) == [root / "b.png"]
    assert identity.listing(root).splitlines() == ["a/c.csv 3", "b.png 3"]


def test_links_count_as_what_they_lead_to_and_those_to_nowhere_are_named(tmp_path):
    write(tmp_path, "far/1.png", "data/2.png")
    root = tmp_path / "data"
    (root / "folder").symlink_to(tmp_path / "far", target_is_directory=True)
    (root / "again").symlink_to(root, target_is_directory=True)
    (root / "file.png").symlink_to(tmp_path / "far/1.png")
    for name in ("gone.PNG", "IM0001", ".gone.png"):
        (root / name).symlink_to("../.git/annex/objects/x")
    (root / "round").symlink_to("round")
    found = disk.listing(root)
    assert inside(root) == ["2.png", "file.png", "folder/1.png"]
    assert [item for item, _ in found.absent] == [
        str(root / name) for name in ("IM0001", "gone.PNG", "round")
    ]
    assert {reason for _, reason in found.absent} == {disk.ABSENT}
    assert "fetch its content" in disk.ABSENT
    assert found.ending(".png").absent == (found.absent[1],)
    assert len(found.ending(".png").files) == 3
    assert disk.and_absent(()) == "" and "(3): a link" in disk.and_absent(found.absent)


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a.png", "shut/b.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):  # the superuser could open it
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = disk.listing(tmp_path)
    assert found.files == (tmp_path / "a.png",)
    ((item, reason),) = found.absent
    assert item == str(tmp_path / "shut")
    assert reason == "a folder that cannot be opened (permission denied); see to its permissions"


@pytest.mark.parametrize("text", ["Müller_é", "유방", "plain", os.fsdecode(b"M\xfc")])
def test_both_spellings_are_one(text):
    for form in ("NFC", "NFD"):
        assert disk.spelled(unicodedata.normalize(form, text)) == text

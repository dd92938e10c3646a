"""Hashed ids, the salt they hang on, and paths that name nobody."""

import builtins
import io
import os
import pathlib
import re
import unicodedata

import pytest

from mln_flax.data.prepare import identity
from mln_flax.data.prepare.identity import SALT_FILE, Names


def names(*secrets, hide=False, salt=b"a", root="/archive"):
    """Names with a given salt, whose secrets are taken apart as `identity.names` does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "salt_of", lambda root: salt)
        return identity.names(identity.Path(root), secrets, hide)


def on_writing_the_salt(monkeypatch, then):
    """Calls `then` with the real `open` wherever a file of the salt is opened to be written."""
    real = builtins.open

    def opened(file, mode="r", *args, **kwargs):
        if SALT_FILE in str(file) and set(mode) & set("wxa+"):
            then(file, mode)
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)  # what pathlib calls


def forbid_writing(monkeypatch):
    """Data folders in which no salt can be kept, for the superuser as well."""

    def refuse(file, mode):
        raise PermissionError(13, "Permission denied", str(file))

    on_writing_the_salt(monkeypatch, refuse)


def test_ids_hang_on_the_salt_and_on_what_they_stand_for():
    first, same, other = names(), names(), names(salt=b"b")
    assert first.patient("P1") == same.patient("P1") != other.patient("P1")
    assert first.image("P1") == same.image("P1") != other.image("P1")
    assert re.fullmatch("p[0-9a-f]{12}", first.patient("P1"))
    assert re.fullmatch("i[0-9a-f]{12}", first.image("P1"))
    many = {first.patient(f"P{i}") for i in range(2000)}
    assert len(many) == 2000
    assert first.patient("P1")[1:] != first.image("P1")[1:]  # one cannot be told from the other


def test_the_salt_is_drawn_once_and_kept(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    salt = identity.salt_of(tmp_path / "one")
    (tmp_path / "one" / "more.png").write_bytes(b"x")
    assert identity.salt_of(tmp_path / "one") == salt
    assert identity.salt_of(tmp_path / "two") != salt
    assert len(salt) == 32 and (tmp_path / "one" / SALT_FILE).read_bytes() == salt
    assert sorted(os.listdir(tmp_path / "one")) == [SALT_FILE, "more.png"]


def test_a_salt_cut_off_by_a_kill_is_never_used(tmp_path, monkeypatch):
    # Killed while the salt is written, the next call must find a whole one or draw it.
    class Killed(BaseException):
        pass

    def killed(file, mode):
        pathlib.Path(file).touch()
        raise Killed

    with monkeypatch.context() as patch:
        on_writing_the_salt(patch, killed)
        with pytest.raises(Killed):
            identity.salt_of(tmp_path)
    salt = identity.salt_of(tmp_path)
    assert len(salt) == 32 and identity.salt_of(tmp_path) == salt


@pytest.mark.parametrize("forbidden", ["by its mode", "by the system"])
def test_a_folder_that_cannot_be_written_gets_its_salt_from_its_listing(
    tmp_path, monkeypatch, forbidden
):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"123")
        if forbidden == "by its mode":
            (tmp_path / name).chmod(0o555)
    if forbidden == "by the system":
        forbid_writing(monkeypatch)
    salt = identity.salt_of(tmp_path / "one")
    assert len(salt) == 32
    assert identity.salt_of(tmp_path / "one") == salt == identity.salt_of(tmp_path / "two")
    (tmp_path / "two" / "a.png").write_bytes(b"1234")
    assert identity.salt_of(tmp_path / "two") != salt
    assert sorted(os.listdir(tmp_path / "one")) == ["a.png"]
    assert identity.names(tmp_path / "one", (), False).patient("P1") != names().patient("P1")


def test_the_listing_tells_paths_and_sizes_and_passes_over_the_salt(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.png").write_bytes(b"12345")
    (tmp_path / "a.png").write_bytes(b"1")
    before = identity.listing(tmp_path)
    assert before.splitlines() == ["a.png 1", "b/x.png 5"]
    identity.salt_of(tmp_path)
    assert identity.listing(tmp_path) == before


def test_names_that_are_no_utf8_are_told_like_others(tmp_path):
    # As old archives from other systems have them.
    odd = os.fsdecode(b"M\xfcller_1.npz")
    (tmp_path / odd).write_bytes(b"1")
    known = identity.names(tmp_path, ["M\udcfcller"], False)
    assert re.fullmatch("p[0-9a-f]{12}", known.patient(odd))
    shown = known.file(str(tmp_path / "sub" / odd))
    assert shown.isascii() and shown.encode() and "ller" not in shown
    plain = identity.names(tmp_path, [], False).file(str(tmp_path / odd))
    plain.encode()  # it goes into prepare.json


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/archive/P_00038/image.dcm", "{P_00038}/image.dcm"),
        ("/archive/x/p_00038_LEFT_CC.png", "x/{P_00038}_LEFT_CC.png"),
        ("/archive/P_000381.png", "P_000381.png"),  # another patient, whose id begins alike
        ("/archive/XP_00038.png", "XP_00038.png"),
        ("/archive/P_00038/P_00038-P_00038.png", "{P_00038}/{P_00038}-{P_00038}.png"),
        ("/archive/doe/JANE.dcm", "{Doe}/{Jane}.dcm"),
        ("/archive/Doe^Jane^^Dr.dcm", "{Doe^Jane^^Dr}.dcm"),
        ("/archive/Jane Doe.dcm", "{Jane} {Doe}.dcm"),
        ("/archive/L_CC/Li.dcm", "L_CC/Li.dcm"),  # shorter than a name is looked for
        ("/archive/Janet.dcm", "Janet.dcm"),
        ("/archive/a.(b)/1.png", "{a.(b)}/1.png"),  # no pattern of its own
    ],
)
def test_secrets_are_hidden_as_whole_words(path, hidden):
    secrets = ("P_00038", "Doe^Jane^^Dr", " Li ", "L", "CC", "a.(b)", "")
    known = names(*secrets)
    expected = re.sub(r"\{(.*?)\}", lambda match: known.patient(match[1]), hidden)
    assert known.file(path) == expected


def test_a_longer_secret_goes_before_its_pieces():
    known = names("Anna", "Anna-Lena")
    assert known.text("Anna-Lena, Anna") == f"{known.patient('Anna-Lena')}, {known.patient('Anna')}"


def test_a_hidden_patient_has_the_id_of_the_records():
    known = names("P_00038")
    assert known.file("/archive/p_00038.png") == f"{known.patient('P_00038')}.png"


def test_the_place_of_the_data_folder_is_not_told():
    assert names(root="/home/jane/archive").file("/home/jane/archive/a/b.png") == "a/b.png"
    assert names(root="../jane/archive").file("../jane/archive/a/b.png") == "a/b.png"


def test_every_name_is_hashed_on_demand_and_the_suffix_kept():
    known = names(hide=True)
    shown = known.file("/archive/film/jane/Doe.DCM")
    assert re.fullmatch(r"(f[0-9a-f]{12}/){2}f[0-9a-f]{12}\.dcm", shown)
    assert shown == names(hide=True).file("/archive/film/jane/Doe.DCM")
    assert shown != names(hide=True, salt=b"b").file("/archive/film/jane/Doe.DCM")
    parts = [known.file(f"/archive/{name}") for name in ("film", "jane", "Doe.DCM")]
    assert shown == "/".join(parts)
    # Names of files without a suffix have dots too.
    assert "jane" not in known.file("/archive/Doe.Jane").lower()
    assert "19610203" not in known.file("/archive/1.2.19610203")


def test_names_take_what_was_found_apart(tmp_path):
    found = identity.names(tmp_path, ["Doe^Jane", "AB", "  ", "P1,P2 P_3"], False)
    assert set(found.secrets) == {"Doe^Jane", "Doe", "Jane", "P1,P2 P_3", "P_3"}
    assert list(found.secrets) == sorted(found.secrets, key=lambda piece: (-len(piece), piece))
    assert isinstance(found, Names) and found.root == str(tmp_path)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("08-29-2017-DDSM-NA-96009/1-1.dcm", "date-DDSM-NA-96009/1-1.dcm"),
        ("2019-03-14/a.png", "date/a.png"),
        ("14.03.2019/20190314_L.png", "date/date_L.png"),
        ("scan_1999_12_31.png", "scan_date.png"),
        ("20586908_MG_R.dcm", "20586908_MG_R.dcm"),  # no month 86
        ("1.3.6.1.4.1.9590.100.1.2.85935/0.dcm", "1.3.6.1.4.1.9590.100.1.2.85935/0.dcm"),
    ],
)
def test_dates_are_hidden(path, shown):
    assert names().file(f"/archive/{path}") == shown


def test_the_owner_of_the_data_finds_what_is_meant(tmp_path):
    identity.keep_names(tmp_path, [("images/p12.png", "/archive/images/doe.png"), ("i7", "doe")])
    text = (tmp_path / identity.NAMES_FILE).read_text()
    assert text.splitlines() == ["shown,file", "i7,doe", "images/p12.png,/archive/images/doe.png"]
    assert identity.listing(tmp_path) == ""
    (tmp_path / "locked").mkdir(mode=0o555)
    identity.keep_names(tmp_path / "locked", [("i7", "doe")])
    assert not list((tmp_path / "locked").iterdir())


def test_names_are_hidden_however_their_accents_are_spelled():
    whole, parted = (unicodedata.normalize(form, "Müller^Zoé") for form in ("NFC", "NFD"))
    assert whole != parted and names().patient(whole) == names().patient(parted)
    for secret in (whole, parted):
        known = names(secret)
        for path in (whole, parted):
            first, second = path.split("^")
            shown = known.file(f"/archive/{second}/{first}.png")
            expected = (unicodedata.normalize("NFC", word) for word in (second, first))
            assert shown == "{}/{}.png".format(*map(known.patient, expected))

"""Nothing that preparation writes or says tells who a patient is."""

import io
import re
import zipfile
import zlib

import numpy as np
import pytest
import trees
from PIL import Image

from mln_flax.config import DataConfig
from mln_flax.data.prepare import identity, prepare, prepared_set, staging
from mln_flax.types import UserError

ID, NAME, BIRTH, ACCESSION = "PLANTED4711", "Brandtvik^Quentina", "19610203", "ACC998877"
TABLED = "Ottokarwitsch"  # a patient whom only cases.csv names
WORDS = [ID, "Brandtvik", "Quentina", BIRTH, ACCESSION, TABLED]


def save_dicom(path, pixels):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as MG
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MG
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = MG, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PresentationIntentType = "MG", "FOR PRESENTATION"
    data.PatientID, data.PatientName, data.PatientBirthDate = ID, NAME, BIRTH
    data.AccessionNumber, data.StudyDate = ACCESSION, BIRTH
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


@pytest.fixture
def archive(tmp_path):
    """A folder whose file names, table and headers name patients; two of its files are torn."""
    root = tmp_path / "archive"
    pixels = np.round(trees.breast((96, 80)) * 255).astype(np.uint8)
    mask = np.zeros(pixels.shape, np.uint8)
    mask[40:44, 12:18] = 255
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    save_dicom(root / "images" / f"{ID}_L_CC.dcm", pixels)
    save_dicom(root / "images" / f"brandtvik-{BIRTH}.dcm", pixels[::-1].copy())  # no mask: left out
    known = [f"{TABLED}_{number}" for number in range(3)]
    for stem in (*known, "x1", "x2"):
        Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
    for stem in (f"{ID}_L_CC", *known, "x1", "x2"):
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
    torn = root / "masks" / f"{TABLED}_2.png"
    torn.write_bytes(torn.read_bytes()[:50])
    Image.fromarray(mask[:-1]).save(root / "masks" / f"{TABLED}_1.png")
    rows = [f"{stem},{TABLED}" for stem in known] + ["x1,P1", "x2,P2", f"{ID}_L_CC,{ID}"]
    rows.append(f"lost_{TABLED},{TABLED}")  # a row for no image
    (root / "cases.csv").write_text("image,patient\n" + "\n".join(rows) + "\n")
    return root


def written(folder):
    """All that a folder holds, packed and unpacked: names, bytes, members, records, fields."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if not path.is_file():
            continue
        yield path.read_bytes()
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as packed:
                for name in packed.namelist():
                    yield name.encode() + packed.read(name)
        if ".array_record" in path.name:
            reader = ArrayRecordReader(str(path))
            for record in reader.read_all():
                yield record
                features = tf_example_pb2.Example.FromString(record).features.feature
                for feature in features.values():
                    for value in feature.bytes_list.value:
                        yield unpacked(value)
            reader.close()


def unpacked(value):
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def planted(texts):
    """Which of the planted words occur, whatever their case, as text of 8, 16 or 32 bits."""
    found = set()
    for text in texts:
        for plain in (text, text.replace(b"\0", b"")):
            found |= {word for word in WORDS if re.search(word.encode(), plain, re.IGNORECASE)}
    return found


def test_the_search_finds_what_is_packed(tmp_path):
    (tmp_path / f"of_{ID}.txt").write_text("")
    (tmp_path / "a.json").write_text(f"born {BIRTH}")
    np.savez_compressed(tmp_path / "b.npz", title=np.array([f"of {TABLED.upper()}"]))
    assert planted(written(tmp_path)) == {ID, BIRTH, TABLED}
    assert unpacked(zlib.compress(b"Brandtvik")) == b"Brandtvik"


@pytest.mark.parametrize("hide", [False, True])
def test_no_planted_word_is_written_or_said(archive, tmp_path, capfd, monkeypatch, hide):
    data = DataConfig(
        name="folder",
        dir=str(archive),
        source="folder",
        targets=(),
        size=trees.SIZE,
        workers=1,
        hide_names=hide,
    )
    out = tmp_path / "out"
    with monkeypatch.context() as patch:  # what a kill would leave
        patch.setattr(prepare, "_store", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(data, out)
    assert planted(written(out)) == set()
    assert len(list((out / "staging").glob("*.npz"))) == 6
    said = prepare.prepare(data, out)
    loaded = prepared_set.load(data, out)
    examples = [tile for part in loaded.parts for tile in part.examples]
    spoken = capfd.readouterr()
    texts = [repr((loaded.notes, loaded.left_out, said, examples)), spoken.out, spoken.err]
    assert planted(text.encode() for text in texts) == set()
    assert planted(written(out)) == set()
    assert said["totals"]["images"] == 4 and len(said["left_out"]) == 4, said["left_out"]
    named = [one["file"] for one in said["left_out"]]
    assert len(set(named)) == 4 and ("images" in "".join(named)) != hide
    # The same file is told again with its id, so that its owner finds it.
    names = identity.names(archive, [ID, NAME, BIRTH, TABLED], hide)
    assert names.file(str(archive / "masks" / f"{TABLED}_2.png")) in named
    everything = b"".join(written(out))
    assert str(archive).encode() not in everything and (out / "staging").exists() is False


def test_what_stops_names_nobody(archive, tmp_path):
    data = DataConfig(
        name="folder",
        dir=str(archive),
        source="folder",
        targets=(),
        size=trees.SIZE,
        workers=1,
        on_error="stop",
    )
    with pytest.raises(UserError) as caught:
        prepare.prepare(data, tmp_path / "out")
    assert planted([str(caught.value).encode()]) == set()


def test_ids_of_records_cannot_be_guessed_without_the_salt(archive, tmp_path):
    # Who has the records and a list of all patients cannot tell one from the other.
    data = DataConfig(name="folder", dir=str(archive), source="folder", targets=(), size=32)
    said = prepare.prepare(data, tmp_path / "out")
    patients = {image["patient"] for image in said["images"]}
    names = identity.names(archive, (), False)
    assert names.patient(ID) in patients
    for salt in (b"", b"0" * 32, str(archive).encode()[:32]):
        assert names._replace(salt=salt).patient(ID) not in patients
    assert not any(
        identity.SALT_FILE in text.decode("latin1") for text in written(tmp_path / "out")
    )
    assert names.salt not in b"".join(written(tmp_path / "out"))


def test_staged_facts_hold_hashes_only(archive, tmp_path, monkeypatch):
    data = DataConfig(
        name="folder", dir=str(archive), source="folder", targets=(), size=32, workers=1
    )
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_store", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(data, tmp_path / "out")
    names = identity.names(archive, (), False)
    facts = [staging.read_facts(path) for path in (tmp_path / "out" / "staging").glob("*.npz")]
    shown = {one["patient"] for one in facts if "left_out" not in one}
    assert names.patient(ID) in shown and names.patient("P1") in shown

"""Small trees of CBIS-DDSM made of phantoms, in every layout that its users have.

The cases are rows of the real tables (`data/cbis_cases.csv`): R. S. Lee et al., A curated
mammography data set for use in computer-aided detection and diagnosis research, Scientific Data 4
(2017) 170177, doi:10.1038/sdata.2017.177; the tables are CC BY 3.0. All pixels are drawn.

Every layout holds the same image: its pixels are those that the JPEG copy decodes to.
"""

import csv
import io
import pathlib
from functools import cache
from typing import NamedTuple

import numpy as np

from mln_flax.data.phantoms import phantom

ROWS = pathlib.Path(__file__).parent / "cbis_cases.csv"
HEIGHT, WIDTH = 160, 120
FRAME = 8  # of a film, cut off
PLANTED = "Planted^Nobody"  # as PatientName in every DICOM file

# What is wrong with which case; every other one is as it should be.
FAULTS = {
    "Calc-Training_P_00005_RIGHT_CC": "swapped",
    "Calc-Training_P_00005_RIGHT_MLO": "half size",
    "Calc-Training_P_00007_LEFT_CC": "other aspect",
    "Calc-Training_P_00007_LEFT_MLO": "no image",
    "Calc-Training_P_00010_LEFT_CC": "only crop",
    "Calc-Training_P_00010_LEFT_MLO": "no region",
    "Calc-Training_P_00011_LEFT_CC": "copied image",
    "Calc-Training_P_00011_LEFT_MLO": "two images",
    "Calc-Training_P_00012_LEFT_CC": "copied mask",
    "Calc-Training_P_00012_LEFT_MLO": "two masks",
    "Calc-Training_P_00014_LEFT_CC": "empty mask",
    "Calc-Training_P_00014_LEFT_MLO": "gray mask",
    "Calc-Test_P_00038_RIGHT_MLO": "last mask empty",
    "Calc-Test_P_00038_LEFT_MLO": "mass row",
    "Calc-Test_P_00041_LEFT_CC": "double row",
    "Calc-Test_P_00041_LEFT_MLO": "two rows",
    "Calc-Test_P_00127_RIGHT_CC": "unlisted region",
    "Calc-Test_P_00127_RIGHT_MLO": "contradicting row",
}


LAYOUTS = ("archive", "series", "tables", "jpeg", "png", "flat")
_WORDS = {"whole": "full mammogram images", "mask": "ROI mask images", "crop": "cropped images"}


class Truth(NamedTuple):
    """What a case shows, whatever its layout and its faults."""

    image: np.ndarray  # uint8 [H, W]
    masks: dict[int, np.ndarray]  # abnormality -> bool [H, W]
    jpeg: bytes  # decodes to the image


class Piece(NamedTuple):
    """One file to write: what it is called, and what it shows."""

    case: str
    number: int | None  # of the abnormality; None: the whole mammogram
    role: str  # "whole", "mask" or "crop", as the names say
    source: str  # its path in the table
    pixels: np.ndarray  # uint8
    jpeg: bytes | None = None  # where they come from one
    copy: int = 0  # not 0: lies beside the first one

    @property
    def patient_id(self):
        return self.case if self.number is None else f"{self.case}_{self.number}"

    @property
    def uids(self):
        """Of study and series."""
        uids = self.source.split("/")[1:3]
        return [f"{uid[:-2]}0{self.copy}" for uid in uids] if self.copy else uids

    @property
    def place(self):
        """Its number in its series."""
        return int(pathlib.Path(self.source).stem)


def rows():
    """The rows of the committed table, as dicts."""
    with open(ROWS, newline="") as file:
        return list(csv.DictReader(file))


def case_of(row):
    return row["image file path"].split("/")[0]


def cases():
    """All cases, sorted."""
    return sorted({case_of(row) for row in rows()})


@cache
def truth(case):
    """The image of a case and its masks: ellipses, overlapping where there are several."""
    index = cases().index(case)
    size = {"height": HEIGHT + 2 * FRAME, "width": WIDTH + 2 * FRAME}
    film = phantom.phantom(7, "film", index, **size, spacing_mm=1.1).image
    drawn = film[FRAME:-FRAME, FRAME:-FRAME]  # the reader's repair of frames is not tested here
    scaled = (drawn - drawn.min()) / (drawn.max() - drawn.min()) * 255
    jpeg = pack_jpeg(np.round(scaled).astype(np.uint8))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    masks = {}
    for number in [int(row["abnormality id"]) for row in rows() if case_of(row) == case]:
        top, left = 30 + 24 * (number % 5), 35 + 7 * (index % 6)
        masks[number] = ((row - top) / 15) ** 2 + ((column - left) / 20) ** 2 <= 1
    return Truth(unpack_jpeg(jpeg), masks, jpeg)


def pack_jpeg(pixels):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def unpack_jpeg(content):
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


def pieces(case, fault=""):
    """The files of a case with what is wrong with them."""
    image, masks, jpeg = truth(case)
    of_case = {int(row["abnormality id"]): row for row in rows() if case_of(row) == case}
    source = next(iter(of_case.values()))["image file path"]
    whole = Piece(case, None, "whole", source, image, jpeg)
    found = [] if fault == "no image" else [whole]
    for number, row in of_case.items():
        found += _region(case, number, row, masks[number], image)
    if fault == "copied image":
        found.append(whole._replace(copy=1))
    if fault == "two images":
        found.append(whole._replace(copy=1, pixels=image[:, ::-1].copy(), jpeg=None))
    if fault == "no region":
        return [whole]
    if fault in ("mass row", "unlisted region"):
        row = second_row(of_case[1])
        found += _region(case, 2, row, np.roll(masks[1], 30, 0), image)
    mask = next((piece for piece in reversed(found) if piece.role == "mask"), None)
    if fault == "swapped":
        crop = next(piece for piece in found if piece.role == "crop")
        return [whole, crop._replace(pixels=mask.pixels), mask._replace(pixels=crop.pixels)]
    changed = {
        "half size": lambda m: m[::2, ::2],
        "other aspect": lambda m: m[::2],
        "empty mask": lambda m: 0 * m,
        "last mask empty": lambda m: 0 * m,
        "gray mask": lambda m: np.where(np.roll(m, 40, 0), 128, m).astype(np.uint8),
    }.get(fault)
    if changed:
        new = mask._replace(pixels=np.ascontiguousarray(changed(mask.pixels)))
        return [new if piece is mask else piece for piece in found]
    if fault == "only crop":
        return [piece for piece in found if piece is not mask]
    if fault == "copied mask":
        found.append(mask._replace(copy=2))
    if fault == "two masks":
        found.append(mask._replace(copy=2, pixels=np.roll(mask.pixels, 5, 0)))
    return found


def _region(case, number, row, mask, image):
    top, left = (int(where.min()) for where in np.nonzero(mask))
    crop = image[top : top + 40, left : left + 45].copy()
    return [
        Piece(case, number, "mask", row["ROI mask file path"], mask.astype(np.uint8) * 255),
        Piece(case, number, "crop", row["cropped image file path"], crop),
    ]


def second_row(row):
    """The row of a second abnormality of a case whose only one has the number 1."""
    paths = ("cropped image file path", "ROI mask file path")
    moved = {name: _renumbered(row[name]).replace("_1/", "_2/") for name in paths}
    return row | {"abnormality id": "2"} | moved


def _renumbered(path):
    """A path of the table with another study and series, whose uids keep their length."""
    case, study, series, name = path.split("/")
    return "/".join([case, f"{study[:-3]}777", f"{series[:-3]}777", name])


def table(faults):
    """The rows of the tables, as dicts."""
    found = []
    for row in rows():
        fault = faults.get(case_of(row), "")
        found.append(row | {"image view": "CC"} if fault == "contradicting row" else row)
        if fault == "mass row":
            found.append(second_row(row) | {"abnormality type": "mass"})
        if fault == "double row":
            found.append(row)
        if fault == "two rows":
            path = _renumbered(row["ROI mask file path"])
            found.append(row | {"ROI mask file path": path})
    return found


def write(root, layout, faults=FAULTS):
    """Writes the tree of all cases in a layout; returns the piece of every path in it."""
    root = pathlib.Path(root)
    found = table(faults)
    home = root / "csv" if layout == "jpeg" else root
    for part in ("Training", "Test"):
        name = f"calc_case_description_{'train' if part == 'Training' else 'test'}_set.csv"
        _write_table(
            home / name, [row for row in found if f"Calc-{part}" in row["image file path"]]
        )
    todo = [piece for case in cases() for piece in pieces(case, faults.get(case, ""))]
    todo += _mass()
    written = {root / _place(layout, piece): piece for piece in todo}
    assert len(written) == len(todo)
    for path, piece in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".dcm":
            write_dicom(path, piece, layout)
        elif path.suffix == ".jpg":
            path.write_bytes(piece.jpeg or pack_jpeg(piece.pixels))
        else:
            _write_png(path, piece.pixels)
    if layout == "jpeg":
        _write_table(home / "dicom_info.csv", [_listed(root, *one) for one in written.items()])
    return {str(path): piece for path, piece in written.items()}


def _mass():
    """A mammogram with a mass, which no table of calcifications names."""
    return [
        piece._replace(case="Mass-Training_P_00016_RIGHT_CC", source=_renumbered(piece.source))
        for piece in pieces("Calc-Training_P_00474_LEFT_CC")
    ]


def _place(layout, piece):
    """The path of a piece below the root."""
    study, series = piece.uids
    beside = f"copy{piece.copy}/" if piece.copy else ""
    if layout == "archive":
        kind = "mask" if piece.role == "crop" and not _is_alone(piece) else piece.role
        date = "08-29-2017" if piece.number else "10-05-2016"
        folder = f"{date}-DDSM-NA-{study[-5:]}/1.000000-{_WORDS[kind]}-{series[-5:]}"
        return f"manifest/CBIS-DDSM/{piece.patient_id}/{folder}/1-{piece.place + 1}.dcm"
    if layout == "series":
        return f"{series}/1-{piece.place + 1}.dcm"
    if layout == "jpeg":
        return f"jpeg/{series}/{piece.place + 1}-{hash_of(piece) % 300}.jpg"
    if layout == "flat":
        name = piece.patient_id if piece.number is None else f"{piece.patient_id}_{piece.role}"
        return f"pictures/{beside}{name}.png"
    suffix = {"tables": "dcm", "png": "png"}[layout]
    return f"{piece.patient_id}/{study}/{series}/{piece.place:06d}.{suffix}"


def _is_alone(piece):
    """Whether mask and crop lie in series of their own, as in one row of the tables."""
    return piece.copy > 0 or "P_00474_LEFT_MLO" in piece.case


def hash_of(piece):
    return sum(map(ord, piece.source))


def _listed(root, path, piece):
    """The row of dicom_info.csv for a file; some have no description."""
    described = piece.number is None or hash_of(piece) % 2
    place = path.relative_to(root / "jpeg").as_posix()
    return {
        "file_path": f"CBIS-DDSM/dicom/{place.replace('.jpg', '.dcm')}",
        "image_path": f"CBIS-DDSM/jpeg/{place}",
        "PatientID": piece.patient_id,
        "SeriesDescription": _WORDS[piece.role] if described else "",
        "SeriesInstanceUID": piece.uids[1],
    }


def _write_table(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        # As in some copies: a line end within the path.
        last = "ROI mask file path"
        writer.writerows([row | {last: row[last] + "\n"} if last in row else row for row in found])


def _write_png(path, pixels):
    from PIL import Image

    Image.fromarray(pixels).save(path)


def write_dicom(path, piece, layout="tables", **fields):
    """A Secondary Capture as the archive's: masks of 8 bits, images of 16."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

    pixels = piece.pixels
    if piece.role == "whole" or len(np.unique(pixels)) > 3:
        pixels = pixels.astype(np.uint16) * 257
    bits = 8 * pixels.itemsize
    both = layout == "archive" and piece.role == "crop" and not _is_alone(piece)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = f"1.2.3.{hash_of(piece)}.{piece.place}.{piece.copy}"
    image.PatientName, image.PatientID = PLANTED, piece.patient_id
    image.Modality = "MG"
    image.StudyInstanceUID, image.SeriesInstanceUID = piece.uids
    image.SeriesDescription = _WORDS["mask" if both else piece.role]
    image.InstanceNumber = piece.place + 1
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit, image.PixelRepresentation = bits - 1, 0
    image.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(image, name, value)
    if hash_of(piece) % 2:
        image.compress(RLELossless, generate_instance_uid=False)
    image.save_as(path, enforce_file_format=True)

"""Drawn mammograms as DICOM files of digital mammography, of patients that nobody is.

Sources: DICOM PS3.3 A.26 (the objects), C.8.11 (their modules), PS3.16 CID 4014 (views).
"""

import hashlib
import io
from typing import Any, NamedTuple

import numpy as np

from mln_flax.data.writers.source import FOR_RESEARCH, NAME, Algorithm, derived_uid

FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
# As detectors have. Of 16 stored bits no reader knows how many are used, and images for processing
# may have no window that says it.
BITS = 14
# The view as a code of SNOMED CT, and where the columns lead: in a left breast, in a right one.
_VIEWS = {
    "CC": ("399162004", "cranio-caudal", {"L": "R", "R": "L"}),
    "MLO": ("399368009", "medio-lateral oblique", {"L": "F", "R": "F"}),
}


class Exam(NamedTuple):
    """What a mammogram says of itself besides its pixels."""

    image: str  # its name, which its UIDs follow from
    patient: str  # an id, of at most 50 letters
    laterality: str  # "L": chest wall at the left edge, or "R": at the right one
    view: str  # "CC" or "MLO"
    spacing_mm: tuple[float, float]  # (row, column)
    for_processing: bool  # raw: the breast is darker than air
    detector: str  # DICOM's word: DIRECT, SCINTILLATOR, STORAGE or FILM
    description: str
    algorithm: Algorithm  # what drew it, and when


def content(image: np.ndarray, exam: Exam) -> bytes:
    """The bytes of a DICOM file; the same image and exam give the same ones.

    Args:
      image: [H, W] in [0, 1], stored in BITS bits, whose range the window shows as it is.
      exam: what it is.

    Raises:
      ValueError: other values, or a view or side that there is not.
    """
    if image.ndim != 2 or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"an image of shape {image.shape}; allowed: [H, W] with values in [0, 1]")
    if exam.view not in _VIEWS or exam.laterality not in ("L", "R"):
        raise ValueError(f"view {exam.laterality} {exam.view}; allowed: L or R; CC or MLO")
    pixels = np.round(image * (2**BITS - 1)).astype("<u2")
    dataset = _identified(pixels, exam)
    _describe_exam(dataset, exam)
    _describe_breast(dataset, exam)
    _describe_pixels(dataset, pixels, exam)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _identified(pixels: np.ndarray, exam: Exam) -> Any:
    """A data set with UIDs that follow from the image."""
    from pydicom import Dataset
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(io.BytesIO(), Dataset(), preamble=b"\0" * 128, file_meta=meta)
    dataset.SOPClassUID = FOR_PROCESSING if exam.for_processing else FOR_PRESENTATION
    dataset.SOPInstanceUID = derived_uid("MG", exam.image, digest)
    dataset.StudyInstanceUID = derived_uid("MG study", exam.patient)
    dataset.SeriesInstanceUID = derived_uid("MG series", exam.image, digest)
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _describe_exam(dataset: Any, exam: Exam) -> None:
    """Patient, study, series and equipment."""
    day, time = f"{exam.algorithm.created:%Y%m%d}", f"{exam.algorithm.created:%H%M%S}"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for event in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{event}Date", day)
        setattr(dataset, f"{event}Time", time)
    dataset.PatientName, dataset.PatientID = f"PHANTOM^{exam.patient}", f"PHANTOM-{exam.patient}"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.QualityControlSubject = "YES"  # a phantom
    dataset.PatientComments = f"Drawn by a program, shows nobody. {FOR_RESEARCH}."
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.SeriesNumber = dataset.InstanceNumber = dataset.AcquisitionNumber = 1
    dataset.Modality = "MG"
    dataset.StudyDescription = dataset.SeriesDescription = exam.description
    dataset.PresentationIntentType = "FOR PROCESSING" if exam.for_processing else "FOR PRESENTATION"
    dataset.Manufacturer = dataset.ManufacturerModelName = NAME
    dataset.DeviceSerialNumber = exam.algorithm.model
    dataset.SoftwareVersions = exam.algorithm.version
    dataset.AcquisitionContextSequence = []


def _describe_breast(dataset: Any, exam: Exam) -> None:
    """Which breast is seen from where, and by what."""
    code, meaning, columns = _VIEWS[exam.view]
    view = _code(code, meaning)
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]
    dataset.ViewPosition = exam.view
    dataset.ImageLaterality = exam.laterality
    forward = "A" if exam.laterality == "L" else "P"
    dataset.PatientOrientation = [forward, columns[exam.laterality]]
    dataset.AnatomicRegionSequence = [_code("76752008", "Breast")]
    dataset.BodyPartExamined = dataset.OrganExposed = "BREAST"
    dataset.BreastImplantPresent = "NO"
    dataset.PositionerType = "MAMMOGRAPHIC"
    dataset.DetectorType = exam.detector
    dataset.ImagerPixelSpacing = list(exam.spacing_mm)


def _describe_pixels(dataset: Any, pixels: np.ndarray, exam: Exam) -> None:
    """The pixels, and how they are to be shown."""
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.DerivationDescription = "computed, of no X-ray image"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored = 16, BITS
    dataset.HighBit = BITS - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if exam.for_processing else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "IDENTITY"
    if not exam.for_processing:  # PS3.3 C.11.2.1.2.1: black is 0 and white the largest value
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (BITS - 1), 2**BITS
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"


def _code(value: str, meaning: str) -> Any:
    """An item of a sequence of codes of SNOMED CT."""
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item

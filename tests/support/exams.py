"""A small exam as DICOM, for what is written beside its images: projections and volumes."""

import datetime

import dicoms
import numpy as np
from pydicom import uid

from mln_flax.data.writers.source import Algorithm

ALGORITHM = Algorithm("ab" * 32, "0.1.0", datetime.datetime(2026, 1, 2, 3, 4, 5))
SHAPE = (37, 29)  # a frame of bits begins within a byte
FRAMES = 6
UIDS = {"StudyInstanceUID": "1.2.3.6", "StudyDate": "20250607", "StudyTime": "080910"}
# What a source may hold besides, and no answer needs.
PRIVATE = {
    "PatientAddress": "1 Secret Lane",
    "OtherPatientIDs": "OTHER-4711",
    "InstitutionName": "St. Elsewhere",
    "OperatorsName": "Xavier^Operator",
    "PatientComments": "sister of Zelda",
}


def image(path, frames=1, syntax=uid.ExplicitVRLittleEndian, **fields):
    """The path of a mammogram, or of a volume, as DICOM."""
    shape = SHAPE if frames == 1 else (frames, *SHAPE)
    pixels = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
    return dicoms.write(path, pixels, syntax, 12, **UIDS | PRIVATE | fields)


def groups(positions, orientation=(0, 1, 0, 0, 0, -1), spacing=(0.1, 0.2)):
    """The fields that place frames in the patient, with pixels of other height than width."""
    shared = dicoms.item(
        PlaneOrientationSequence=[dicoms.item(ImageOrientationPatient=list(orientation))],
        PixelMeasuresSequence=[dicoms.item(PixelSpacing=list(spacing), SliceThickness=1.5)],
    )
    return {
        "SOPClassUID": dicoms.TOMOSYNTHESIS,
        "FrameOfReferenceUID": "1.2.3.8",
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [
            dicoms.item(PlanePositionSequence=[dicoms.item(ImagePositionPatient=list(position))])
            for position in positions
        ],
    }


VOLUME = groups([(3.0 + n, 1.0, 2.0) for n in range(FRAMES)])


def clusters(frames=1):
    """The numbers of two clusters, 1 and 3, at the borders too: int [H, W] or [frames, H, W]."""
    labels = np.zeros((frames, *SHAPE), int)
    labels[-1, 3:6, 4] = labels[-1, 9, 7:9] = 1
    labels[-1, 0, 0] = labels[-1, -1, -1] = 3
    if frames > 1:
        labels[1, 3:7, 5] = labels[4, 30, 2] = 1
    return labels if frames > 1 else labels[0]

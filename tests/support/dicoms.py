"""Small DICOM files for tests, as a mammography unit, a film scanner or an archive writes them."""

import io

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence

MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"  # digital mammography, for presentation
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def dataset(pixels, syntax=uid.ExplicitVRLittleEndian, bits=None, **fields):
    """A data set of pixels [H, W] or [frames, H, W] (or [H, W, 3]) with planted personal fields."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = fields.get("SOPClassUID", MAMMOGRAM)
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds = FileDataset(
        None,
        {},
        preamble=b"\0" * 128,
        file_meta=meta,
        is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
    )
    ds.SOPClassUID = MAMMOGRAM
    ds.SOPInstanceUID = "1.2.3.4"
    ds.SeriesInstanceUID = "1.2.3.5"
    ds.PatientName = "Zebedee^Quentina"
    ds.PatientID = "PID-778899"
    ds.PatientBirthDate = "19511224"
    ds.AccessionNumber = "ACC-445566"
    ds.Modality = "MG"
    ds.InstanceNumber = 7
    color = pixels.ndim == 3 and pixels.shape[-1] == 3
    ds.Rows, ds.Columns = pixels.shape[:2] if color else pixels.shape[-2:]
    ds.SamplesPerPixel = 3 if color else 1
    if color:
        ds.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = "<" if syntax.is_little_endian else ">"
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for keyword, value in fields.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def write(path, pixels, syntax=uid.ExplicitVRLittleEndian, bits=None, **fields):
    """The path of a DICOM file with these uncompressed pixels."""
    dataset(pixels, syntax, bits, **fields).save_as(path, enforce_file_format=True)
    return path


def item(**fields):
    """A data set for a sequence."""
    ds = pydicom.Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def lut(first, bits, entries, order="<"):
    """A lookup table of a modality LUT or VOI LUT sequence."""
    ds = item(LUTDescriptor=[len(entries), first, bits])
    ds.add_new("LUTData", "OW", np.asarray(entries, order + "u2").tobytes())
    return Sequence([ds])


def write_gdcm(path, pixels, syntax_name, **fields):
    """The path of a DICOM file that gdcm has compressed, syntax_name being gdcm's own."""
    import gdcm

    plain = str(path) + ".plain"
    write(plain, pixels, **fields)
    reader = gdcm.ImageReader()
    reader.SetFileName(plain)
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax_name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


def write_encapsulated(path, pixels, syntax, encode, **fields):
    """The path of a DICOM file whose frames are what `encode` makes of them (bytes)."""
    stack = pixels if pixels.ndim == 3 else pixels[None]
    ds = dataset(pixels, syntax, **fields)
    ds.PixelData = pydicom.encaps.encapsulate([encode(frame) for frame in stack])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


def jpeg2000(frame):
    """A lossless JPEG 2000 codestream, by Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    return buffer.getvalue()


def jpeg(frame):
    """A baseline JPEG of quality 95, by Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def segmentation(
    path,
    frames,
    syntax=uid.ExplicitVRLittleEndian,
    sources="1.2.3.9",
    segments=None,
    places=None,
    instances=("1.2.3.9",),
    kinds=None,
    **fields,
):
    """The path of a DICOM segmentation, binary unless fields say otherwise.

    Of each frame: the image that it was drawn on, perhaps with one of its frames (one for all, or
    None); its segment's number (in order); its place; and its segment's kind as a code.
    """
    count = len(frames)
    segments = segments or list(range(1, count + 1))
    sources = [sources] * count if sources is None or isinstance(sources, str) else sources
    groups = []
    for number, (segment, source) in enumerate(zip(segments, sources, strict=True)):
        group = item(SegmentIdentificationSequence=[item(ReferencedSegmentNumber=segment)])
        if source:
            instance, *numbers = (source,) if isinstance(source, str) else source
            image = item(ReferencedSOPInstanceUID=instance)
            if numbers:
                image.ReferencedFrameNumber = numbers
            group.DerivationImageSequence = [item(SourceImageSequence=[image])]
        if places:
            group.PlanePositionSequence = [item(ImagePositionPatient=places[number])]
        groups.append(group)
    described = [
        item(
            SegmentNumber=segment,
            SegmentedPropertyTypeCodeSequence=[
                item(CodeValue=kinds[number] if kinds else "4147007", CodingSchemeDesignator="SCT")
            ],
        )
        for number, segment in enumerate(dict.fromkeys(segments))
    ]
    binary = "SegmentationType" not in fields
    ds = dataset(
        np.stack(frames),
        syntax,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4",
        SegmentSequence=described,
        PerFrameFunctionalGroupsSequence=groups,
        ReferencedSeriesSequence=[
            item(
                ReferencedInstanceSequence=[
                    item(ReferencedSOPInstanceUID=instance) for instance in instances
                ]
            )
        ],
        **{"SegmentationType": "BINARY"} | fields,
    )
    if binary:
        ds.BitsAllocated = ds.BitsStored = 1
        ds.HighBit = 0
        ds.PixelData = np.packbits(np.stack(frames), bitorder="little").tobytes()
        ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    return path

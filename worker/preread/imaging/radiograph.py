"""Reading of radiographs: DICOM, JPEG and PNG, detected by content.

Pure: no disk, clock, settings or log. Every fault of the content is a subclass of ``UnreadableError``.
``read_image_header`` decodes no pixel; between it and ``decode_radiograph`` ``preread.model.intended_use`` can refuse
the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import UID

from preread.core.errors import (
    BrokenHeader,
    EmptyFile,
    MultiFrame,
    NoPixels,
    TooManyBytes,
    TooManyPixels,
    UnknownFormat,
)
from preread.core.study_header import StudyHeader
from preread.core.text.ages import ABSENT_AGE, AgeReading
from preread.core.types import Caveat, Identity, Radiograph
from preread.imaging import dicom_file, elements, identity, raster, rendering, study_header
from preread.imaging.codecs import decoders
from preread.imaging.dicom_file import DicomFile

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on bytes and pixels of an image, applied before any decoding.

    Attributes:
        max_bytes: size of the file, and of a deflated file after inflating, in bytes.
        max_pixels: rows x columns x samples, in the header and in the codestream.
    """

    max_bytes: int = 200 * MIB
    max_pixels: int = 64_000_000


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Header of an image: its properties before any pixel is decoded.

    Attributes:
        identity: attributes from the tags; empty for JPEG and PNG.
        format: ``DICOM``, ``JPEG`` or ``PNG``.
        transfer_syntax_uid: ``None`` for JPEG and PNG.
        rows: height in pixels; ``None`` if the header gives none.
        columns: width in pixels; ``None`` if the header gives none.
        number_of_frames: (0028,0008), or 1.
        presentation_intent_type: (0008,0068), ``FOR PRESENTATION`` or ``FOR PROCESSING``; ``None`` if missing.
        has_pixels: the file has pixel data.
        is_image: ``False`` for reports, directories, presentation states and the like.
        sop_class_uid: (0008,0016), else (0002,0002); ``None`` if both are missing.
        search_text: descriptions of study, series, protocol and device processing, lower case.
        view_text: descriptions of this image only (not of the study), lower case.
        view_codes: codes and meanings of the View Code Sequence, lower case.
        body_part_codes: codes and meanings of the Anatomic Region Sequence, lower case.
        age: age of the patient on the day of the study.
        species: descriptions, codes and meanings of the species, lower case.
        breed: descriptions, codes and meanings of the breed, lower case.
        has_owner: a Responsible Person has the role OWNER.
        patient_orientation: (0020,0020), upper case; ``None`` if missing.
        study_header: patient and study as the file states them; ``None`` for JPEG and PNG.
        data: content of the file, for ``decode_radiograph``.
        file: the parsed DICOM file, for ``decode_radiograph``; ``None`` for JPEG and PNG.
    """

    identity: Identity
    format: str
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    presentation_intent_type: str | None = None
    has_pixels: bool = True
    is_image: bool = True
    sop_class_uid: str | None = None
    search_text: tuple[str, ...] = ()
    view_text: tuple[str, ...] = ()
    view_codes: tuple[str, ...] = ()
    body_part_codes: tuple[str, ...] = ()
    age: AgeReading = ABSENT_AGE
    species: tuple[str, ...] = ()
    breed: tuple[str, ...] = ()
    has_owner: bool = False
    patient_orientation: str | None = None
    study_header: StudyHeader | None = None
    data: bytes = field(default=b"", repr=False, compare=False)
    file: DicomFile | None = field(default=None, repr=False, compare=False)


def read_image_header(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Detect the format of an image file and read its header, no pixels.

    Args:
        data: content of the file.
        limits: upper limits on bytes and pixels.

    Raises:
        EmptyFile: there are no bytes.
        TooManyBytes: there are more than ``limits.max_bytes``, also after inflating.
        UnknownFormat: it is neither DICOM nor JPEG nor PNG.
        BrokenHeader: its header cannot be parsed.
        TooManyPixels: the header of a JPEG or PNG states more pixels than any image has.
    """
    if not data:
        raise EmptyFile
    if len(data) > limits.max_bytes:
        raise TooManyBytes(f"The file has {len(data)} bytes; the limit is {limits.max_bytes}.")
    with elements.suppress_parser_warnings():
        if dicom_file.looks_like_dicom(data):
            return _dicom_header(data, limits)
        kind = raster.detect_raster_format(data)
        if kind is None:
            raise UnknownFormat
        size = raster.read_raster_size(data, kind)
        return ImageHeader(Identity(), kind, rows=size.rows, columns=size.columns, data=data)


def decode_radiograph(
    header: ImageHeader, limits: ImageLimits = DEFAULT_LIMITS, *, shorter_side_px: int | None = None
) -> Radiograph:
    """Decode an image and render it to 8-bit grey levels as a viewer does.

    Args:
        header: result of ``read_image_header``.
        limits: upper limits on bytes and pixels.
        shorter_side_px: if the codec stores lower resolutions (JPEG 2000), decode the lowest whose shorter side has at
            least this many pixels; ``None`` decodes the full resolution.

    Returns:
        The image with uint8 pixels [rows, columns], 0 = black, 255 = white.

    Raises:
        UnreadableError: a subclass gives the reason: NoPixels, MultiFrame, TooManyPixels, BrokenHeader,
            TruncatedPixels, DecodeFailed, UnsupportedTransferSyntax, UnsupportedPixels or ColourNotGrey.
    """
    with elements.suppress_parser_warnings():
        try:
            if header.file is None:
                image = raster.decode_raster(header.data, header.format, limits.max_pixels)
                rows, columns = image.pixels.shape
                return Radiograph(
                    image.pixels,
                    rows,
                    columns,
                    header.identity,
                    header.format,
                    image.decoder,
                    caveats=image.caveats,
                )
            return _decode_dicom(header, header.file, limits, shorter_side_px)
        except MemoryError:
            raise TooManyPixels(
                f"Decoding {header.rows} x {header.columns} pixels needs more memory than is available."
            ) from None


def _dicom_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    file = dicom_file.parse_dicom_file(data, limits.max_bytes)
    dataset = file.dataset
    as_written = study_header.read_study_header(dataset)  # before any value is converted
    identified = identity.read_identity(dataset)
    sop_class_uid = identified.sop_class_uid or file.media_storage_sop_class_uid
    rows, columns = elements.read_integer(dataset, "Rows"), elements.read_integer(dataset, "Columns")
    has_pixels = file.pixels is not None
    if len(dataset) == 0 and sop_class_uid is None:
        raise BrokenHeader("The DICOM header has 0 elements.")
    view_text = _lower(dataset, "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
    return ImageHeader(
        identity=identified,
        format="DICOM",
        transfer_syntax_uid=file.transfer_syntax_uid,
        rows=rows,
        columns=columns,
        number_of_frames=elements.read_integer(dataset, "NumberOfFrames") or 1,
        presentation_intent_type=elements.read_code_string(dataset, "PresentationIntentType"),
        has_pixels=has_pixels,
        is_image=has_pixels or rows is not None or sop_class_uid is None or sop_class_uid in _IMAGE_CLASSES,
        sop_class_uid=sop_class_uid,
        search_text=view_text
        + _lower(dataset, "StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription"),
        view_text=view_text,
        view_codes=_view_codes(dataset),
        body_part_codes=tuple(elements.read_code_sequence(dataset, "AnatomicRegionSequence")),
        age=identity.read_patient_age(dataset),
        species=_lower(dataset, "PatientSpeciesDescription")
        + tuple(elements.read_code_sequence(dataset, "PatientSpeciesCodeSequence")),
        breed=_lower(dataset, "PatientBreedDescription")
        + tuple(elements.read_code_sequence(dataset, "PatientBreedCodeSequence")),
        has_owner=elements.read_code_string(dataset, "ResponsiblePersonRole") == "OWNER",
        patient_orientation=(elements.read_written(dataset, "PatientOrientation") or "").upper() or None,
        study_header=as_written,
        data=data,
        file=file,
    )


# Single-frame image classes of PS3.4 B.5 that a radiograph may have; a file of these classes without pixels is a
# truncated image and not a document.
_IMAGE_CLASSES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + suffix
    for suffix in (
        "1",
        "1.1",
        "1.1.1",
        "1.2",
        "1.2.1",
        "1.3",
        "1.3.1",
        "2",
        "2.1",
        "4",
        "4.1",
        "6.1",
        "7",
        "12.1",
        "12.2",
    )
)


def _lower(dataset: Dataset, *keywords: str) -> tuple[str, ...]:
    texts = (elements.read_written(dataset, keyword) for keyword in keywords)
    return tuple(line.lower() for line in texts if line)


def _view_codes(dataset: Dataset) -> tuple[str, ...]:
    """Return codes and meanings of view and view modifier (PS3.3 C.8.11.7)."""
    views = elements.read_sequence_items(dataset, "ViewCodeSequence")
    modifiers = (code for view in views for code in elements.read_code_sequence(view, "ViewModifierCodeSequence"))
    return (*elements.read_code_sequence(dataset, "ViewCodeSequence"), *modifiers)


def read_sop_class_name(sop_class_uid: str) -> str:
    """Return the name of a SOP class (PS3.6 annex A), the UID if it has none."""
    return UID(sop_class_uid, validation_mode=IGNORE).name  # a warning would quote the value


def _decode_dicom(header: ImageHeader, file: DicomFile, limits: ImageLimits, shorter_side_px: int | None) -> Radiograph:
    if file.pixels is None:
        raise NoPixels
    if header.number_of_frames > 1:
        raise MultiFrame(f"NumberOfFrames is {header.number_of_frames}; a radiograph has 1 frame.")
    module = decoders.read_pixel_module(file, limits.max_pixels)
    stored = decoders.decode_stored_values(file, module, _halvings(module, shorter_side_px))
    found = replace(module, bits_stored=stored.field.bits, high_bit=stored.field.end - 1, signed=stored.field.signed)
    rendered = rendering.render_grey_levels(stored.values, found, file, module.bits_stored, stored.padding)
    distinct: dict[Caveat, None] = dict.fromkeys((*stored.caveats, *rendered.caveats))
    return Radiograph(
        rendered.pixels,
        module.rows,
        module.columns,
        header.identity,
        header.format,
        stored.decoder,
        header.transfer_syntax_uid,
        caveats=tuple(distinct),
        study_header=header.study_header,
        scale_fault=stored.contradiction or rendered.scale_fault,
    )


def _halvings(module: decoders.PixelModule, shorter_side_px: int | None) -> int:
    """Return how often the resolution may be halved."""
    if shorter_side_px is None:
        return 0
    return max(0, (min(module.rows, module.columns) // shorter_side_px).bit_length() - 1)

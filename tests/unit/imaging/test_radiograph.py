"""Bytes to a radiograph: what each good, dirty, broken and hostile file ends in."""

from __future__ import annotations

import io
import logging
import struct
import threading
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from preread.core import errors
from preread.core.types import Caveat
from preread.imaging.elements import suppress_parser_warnings
from preread.imaging.radiograph import ImageHeader, ImageLimits, decode_radiograph, read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

FILM = phantoms.draw_chest(1, rows=96, columns=128)


def read(data: bytes, limits: ImageLimits = ImageLimits()) -> tuple[ImageHeader, np.ndarray]:
    header = read_image_header(data, limits)
    return header, decode_radiograph(header, limits).pixels


def apart(pixels: np.ndarray) -> int:
    return int(np.abs(pixels.astype(int) - FILM).max())


def with_elements(data: bytes, **elements: Any) -> bytes:
    """The same file with elements set as they are (deleted where ``None``), without a check of what they hold."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
                if dataset[keyword].VR == "US or SS":
                    dataset[keyword].VR = "SS" if isinstance(value, int) and value < 0 else "US"
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, dataset)
    return stream.getvalue()


# --------------------------------------------------------------------------- told by content


@pytest.mark.parametrize("encoding", [encoding for _, encoding in phantoms.list_encodings()], ids=lambda e: e.syntax)
def test_every_transfer_syntax_is_read(encoding: Encoding) -> None:
    header, pixels = read(phantoms.to_dicom(FILM, encoding))
    assert header.format == "DICOM"
    assert header.transfer_syntax_uid == phantoms.TRANSFER_SYNTAXES[encoding.syntax]
    assert apart(pixels) <= (3 if encoding.syntax in phantoms.LOSSY else 1)


@pytest.mark.parametrize(
    "syntax, decoder",
    [
        ("explicit", "numpy"),
        ("rle", "imagecodecs"),
        ("jpeg-lossless", "imagecodecs"),
        ("jpeg-ls", "pyjpegls"),
        ("jpeg-2000", "pylibjpeg-openjpeg"),
        ("htj2k", "pylibjpeg-openjpeg"),
    ],
)
def test_the_decoder_is_named_with_its_version(syntax: str, decoder: str) -> None:
    radiograph = decode_radiograph(read_image_header(phantoms.to_dicom(FILM, Encoding(syntax))))
    assert radiograph.decoder.startswith(decoder)
    assert any(character.isdigit() for character in radiograph.decoder)


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_dicom_without_preamble_is_read(syntax: str) -> None:
    header, pixels = read(phantoms.to_dicom(FILM, Encoding(syntax, preamble=False)))
    assert header.transfer_syntax_uid == phantoms.TRANSFER_SYNTAXES[syntax]
    assert header.identity.patient_id == "PHANTOM-0000"
    assert apart(pixels) <= 1


def test_dicom_with_meta_but_without_preamble_is_read() -> None:
    _, pixels = read(phantoms.to_dicom(FILM, Encoding("big-endian"))[132:])
    assert apart(pixels) <= 1


def test_a_missing_transfer_syntax_is_found_from_the_data_set() -> None:
    data = phantoms.to_dicom(FILM, Encoding())
    bare = phantoms.to_dicom(FILM, Encoding(preamble=False))
    header, pixels = read(data[:132] + bare)
    assert header.transfer_syntax_uid == phantoms.TRANSFER_SYNTAXES["explicit"]
    assert apart(pixels) <= 1


def test_jpeg_and_png_are_read() -> None:
    for data, form in ((phantoms.to_jpeg(FILM, 100), "JPEG"), (phantoms.to_png(FILM), "PNG")):
        header, pixels = read(data)
        assert (header.format, header.rows, header.columns) == (form, 96, 128)
        assert header.identity.patient_id is None
        assert apart(pixels) <= 2


def test_lossy_is_said_of_lossy_syntaxes_and_of_what_says_so() -> None:
    def caveats(encoding: Encoding, **elements: Any) -> tuple[Caveat, ...]:
        return decode_radiograph(read_image_header(phantoms.to_dicom(FILM, encoding, **elements))).caveats

    assert Caveat.LOSSY not in caveats(Encoding())
    assert Caveat.LOSSY in caveats(Encoding(), LossyImageCompression="01")
    assert Caveat.LOSSY in caveats(Encoding("jpeg-baseline", bits=8))
    assert Caveat.LOSSY not in caveats(Encoding("jpeg-2000-lossless"))


# --------------------------------------------------------------------------- plain pictures


def as_png(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def test_sixteen_bit_png_is_scaled_and_not_saturated() -> None:
    assert apart(read(phantoms.to_png(FILM, bits=16))[1]) == 0


@pytest.mark.parametrize("factor, caveat", [(16, Caveat.DEPTH_CORRECTED), (5, Caveat.NO_WINDOW)])
def test_fewer_bits_in_a_sixteen_bit_png_are_scaled_with_a_caveat(factor: int, caveat: Caveat) -> None:
    """Values of 12 bits have a certain scale, values up to 1275 have none and are stretched."""
    radiograph = decode_radiograph(read_image_header(as_png(Image.fromarray(FILM.astype(np.uint16) * factor))))
    assert apart(radiograph.pixels) <= 1
    assert radiograph.caveats == (caveat,)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_another_mode_is_read(mode: str) -> None:
    assert apart(read(as_png(Image.fromarray(FILM).convert(mode)))[1]) <= 1


def test_cmyk_jpeg_is_read() -> None:
    stream = io.BytesIO()
    Image.fromarray(FILM).convert("CMYK").save(stream, "JPEG", quality=100)
    assert apart(read(stream.getvalue())[1]) <= 4


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is its right side: turned by 270 degrees
    stream = io.BytesIO()
    Image.fromarray(np.rot90(FILM)).save(stream, "JPEG", quality=100, exif=exif)
    _, pixels = read(stream.getvalue())
    assert pixels.shape == FILM.shape
    assert apart(pixels) <= 2


def test_colour_is_no_radiograph() -> None:
    colours = np.stack([FILM, FILM[::-1], FILM], axis=-1)
    with pytest.raises(errors.ColourNotGrey):
        read(as_png(Image.fromarray(colours)))


def test_an_animation_is_no_radiograph() -> None:
    data = as_png(Image.fromarray(FILM), save_all=True, append_images=[Image.fromarray(255 - FILM)])
    with pytest.raises(errors.MultiFrame):
        read(data)


# --------------------------------------------------------------------------- broken and hostile


def jpeg_of(rows: int, columns: int) -> bytes:
    data = bytearray(phantoms.to_jpeg(FILM))
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, rows, columns)
    return bytes(data)


def deflated_bomb(size_bytes: int) -> bytes:
    data = phantoms.to_dicom(FILM, Encoding("deflated"))
    body = zlib.decompressobj(-15).decompress(data[deflated_start(data) :])
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return data[: deflated_start(data)] + packer.compress(body + bytes(size_bytes)) + packer.flush()


def deflated_start(data: bytes) -> int:
    (length,) = struct.unpack_from("<I", data, 140)
    return 144 + int(length)


def nested(depth: int) -> bytes:
    """Sequences of undefined length, one within the other, before the pixel data."""
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    head, pixels, rest = phantoms.to_dicom(FILM).partition(b"\xe0\x7f\x10\x00OW")
    return head + opened * depth + closed * depth + pixels + rest


BROKEN = {
    "empty": (b"", errors.EmptyFile),
    "text named .dcm": (b"Chest X-ray report\nNothing here is a film.\n" * 20, errors.UnknownFormat),
    "one byte": (b"\x00", errors.UnknownFormat),
    "zeros": (bytes(4096), errors.UnknownFormat),
    "truncated JPEG": (phantoms.to_jpeg(FILM)[:1500], errors.TruncatedPixels),
    "JPEG header only": (phantoms.to_jpeg(FILM)[:12], errors.BrokenHeader),
    "65535 x 65535 JPEG": (jpeg_of(65535, 65535), errors.TooManyPixels),
    "PNG header only": (phantoms.to_png(FILM)[:20], errors.BrokenHeader),
    "truncated PNG": (phantoms.to_png(FILM)[:3000], errors.TruncatedPixels),
    "GIF": (b"GIF89a" + bytes(100), errors.UnknownFormat),
    "truncated DICOM": (phantoms.to_dicom(FILM)[:-2000], errors.TruncatedPixels),
    "DICOM without pixels": (with_elements(phantoms.to_dicom(FILM), PixelData=None), errors.NoPixels),
    "DICOM cut in its header": (phantoms.to_dicom(FILM)[:600], errors.NoPixels),
    "DICOM preamble only": (bytes(128) + b"DICM", errors.BrokenHeader),
    "DICOM meta cut": (phantoms.to_dicom(FILM)[:150], errors.BrokenHeader),
    "65535 x 65535 DICOM": (with_elements(phantoms.to_dicom(FILM), Rows=65535, Columns=65535), errors.TooManyPixels),
    "no rows": (with_elements(phantoms.to_dicom(FILM), Rows=None), errors.BrokenHeader),
    "zero rows": (with_elements(phantoms.to_dicom(FILM), Rows=0), errors.BrokenHeader),
    "multi-frame": (with_elements(phantoms.to_dicom(FILM), NumberOfFrames=2), errors.MultiFrame),
    "no BitsStored": (with_elements(phantoms.to_dicom(FILM), BitsStored=None), errors.BrokenHeader),
    "no PixelRepresentation": (with_elements(phantoms.to_dicom(FILM), PixelRepresentation=None), errors.BrokenHeader),
    "no SamplesPerPixel": (with_elements(phantoms.to_dicom(FILM), SamplesPerPixel=None), errors.BrokenHeader),
    "no photometric": (with_elements(phantoms.to_dicom(FILM), PhotometricInterpretation=None), errors.BrokenHeader),
    "odd photometric": (
        with_elements(phantoms.to_dicom(FILM), PhotometricInterpretation="HSV"),
        errors.UnsupportedPixels,
    ),
    "32 bits": (with_elements(phantoms.to_dicom(FILM), BitsAllocated=32), errors.UnsupportedPixels),
    "13 bits stored in 8": (with_elements(phantoms.to_dicom(FILM), BitsAllocated=8), errors.BrokenHeader),
    "two thousand nested sequences": (nested(2000), errors.BrokenHeader),
    "deflate bomb": (deflated_bomb(300 * 1024 * 1024), errors.TooManyBytes),
    "damaged deflate": (phantoms.to_dicom(FILM, Encoding("deflated"))[:400] + b"\xff" * 90, errors.BrokenHeader),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_has_a_named_error(name: str) -> None:
    data, error = BROKEN[name]
    with pytest.raises(errors.UnreadableError) as caught:
        read(data)
    assert type(caught.value) is error


def test_two_hundred_nested_sequences_do_no_harm() -> None:
    try:
        _, pixels = read(nested(200))
    except errors.BrokenHeader:
        return  # where the interpreter counts each level
    assert apart(pixels) <= 1


def test_a_file_over_the_limit_is_not_parsed() -> None:
    data = phantoms.to_dicom(FILM)
    assert read_image_header(data, ImageLimits(max_bytes=len(data))).has_pixels
    with pytest.raises(errors.TooManyBytes):
        read_image_header(data, ImageLimits(max_bytes=len(data) - 1))


def test_a_picture_over_the_limit_is_not_decoded() -> None:
    for data in (phantoms.to_dicom(FILM), phantoms.to_jpeg(FILM), phantoms.to_png(FILM)):
        with pytest.raises(errors.TooManyPixels):
            read(data, ImageLimits(max_pixels=96 * 128 - 1))


def test_memory_that_runs_out_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    header = read_image_header(phantoms.to_dicom(FILM))
    monkeypatch.setattr("preread.imaging.codecs.decoders.decode_stored_values", exhausted)
    with pytest.raises(errors.TooManyPixels):
        decode_radiograph(header)


@pytest.mark.parametrize(
    "syntax", ["jpeg-2000-lossless", "htj2k-lossless", "jpeg-lossless", "jpeg-ls", "jpeg-baseline"]
)
def test_a_large_codestream_in_a_small_header_is_not_decoded(syntax: str) -> None:
    """A decoder allocates by the codestream: 12000 x 12000 behind Rows = 96 would take a gigabyte."""
    data = bytearray(phantoms.to_dicom(FILM, Encoding(syntax, bits=8)))
    if "jpeg-2000" in syntax or "htj2k" in syntax:
        size = data.index(b"\xff\x4f\xff\x51")
        struct.pack_into(">II", data, size + 8, 12000, 12000)
        struct.pack_into(">II", data, size + 24, 12000, 12000)
    else:
        marker = next(m for m in (b"\xff\xc0", b"\xff\xc3", b"\xff\xf7") if m in data)
        struct.pack_into(">HH", data, data.index(marker) + 5, 12000, 12000)
    header = read_image_header(bytes(data))
    tracemalloc.start()
    try:
        with pytest.raises(errors.BrokenHeader):
            decode_radiograph(header)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_an_rle_bomb_is_not_unpacked() -> None:
    segment = b"\x81\x00" * 200_000  # 25 million zeros
    frame = struct.pack("<16I", 2, 64, 64 + len(segment), *([0] * 13)) + segment * 2
    data = with_elements(phantoms.to_dicom(FILM, Encoding("rle")), PixelData=encapsulate([frame]))
    header = read_image_header(data)
    tracemalloc.start()
    try:
        assert not decode_radiograph(header).pixels.any()
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [name for name in phantoms.TRANSFER_SYNTAXES if name not in phantoms.NATIVE])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_codestream_that_breaks_off_is_never_half_a_film(syntax: str, share: float) -> None:
    """Decoders fill what is missing with grey and say nothing."""
    whole = phantoms.to_dicom(FILM, Encoding(syntax, bits=8))
    frame = next(pydicom.encaps.generate_frames(pydicom.dcmread(io.BytesIO(whole)).PixelData, number_of_frames=1))
    cut = with_elements(whole, PixelData=encapsulate([frame[: int(len(frame) * share) // 2 * 2]]))
    with pytest.raises((errors.TruncatedPixels, errors.DecodeFailed)):
        read(cut)


def test_several_frames_behind_a_header_of_one() -> None:
    whole = phantoms.to_dicom(FILM, Encoding("jpeg-ls"))
    frame = next(pydicom.encaps.generate_frames(pydicom.dcmread(io.BytesIO(whole)).PixelData, number_of_frames=1))
    with pytest.raises(errors.BrokenHeader):
        read(with_elements(whole, PixelData=encapsulate([frame, frame])))


def test_a_frame_in_several_fragments_is_joined() -> None:
    whole = phantoms.to_dicom(FILM, Encoding("jpeg-ls"))
    frame = next(pydicom.encaps.generate_frames(pydicom.dcmread(io.BytesIO(whole)).PixelData, number_of_frames=1))
    _, pixels = read(with_elements(whole, PixelData=encapsulate([frame], fragments_per_frame=4)))
    assert apart(pixels) <= 1


def test_an_unknown_transfer_syntax_is_named() -> None:
    data = phantoms.to_dicom(FILM, Encoding("jpeg-2000-lossless")).replace(
        b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.55"
    )
    with pytest.raises(errors.UnsupportedTransferSyntax):
        read(data)


def test_number_of_frames_zero_is_one() -> None:
    assert apart(read(with_elements(phantoms.to_dicom(FILM), NumberOfFrames=0))[1]) <= 1


def test_bytes_behind_the_frame_are_ignored() -> None:
    data = phantoms.to_dicom(FILM)
    longer = with_elements(data, PixelData=pydicom.dcmread(io.BytesIO(data)).PixelData * 3)
    assert apart(read(longer)[1]) <= 1


def test_a_tail_of_zeros_is_said() -> None:
    film = phantoms.draw_chest(1, rows=300, columns=300)
    half = film.copy()
    half[150:] = 0
    caveats = [decode_radiograph(read_image_header(phantoms.to_dicom(picture))).caveats for picture in (film, half)]
    assert [Caveat.TAIL_ZERO in found for found in caveats] == [False, True]


# --------------------------------------------------------------------------- what must not come out


def test_reports_and_directories_are_no_images() -> None:
    report = phantoms.to_dicom(FILM, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22", Modality="SR")
    bare = with_elements(report, PixelData=None, Rows=None, Columns=None)
    assert not read_image_header(bare).is_image
    assert read_image_header(phantoms.to_dicom(FILM)).is_image


def test_nothing_of_a_patient_reaches_logs_or_warnings(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """pydicom quotes values in its warnings, log lines and exceptions."""
    dirty = with_elements(
        phantoms.to_dicom(FILM, Encoding("jpeg-ls")),
        PatientBirthDate="SECRETNAME",
        StudyInstanceUID="SECRETNAME",
        PatientAge="SECRETNAME",
        SpecificCharacterSet="SECRETNAME",
    )
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        header = read_image_header(dirty)
        decode_radiograph(header)
        with pytest.raises(errors.UnreadableError) as failed:
            read(dirty[:-500].replace(b"\xff\xf7", b"\xff\xf8"))
    assert not caught
    assert "SECRETNAME" not in caplog.text + "".join(capfd.readouterr()) + str(failed.value)
    assert failed.value.__cause__ is None
    assert header.identity.patient_birth_date is None
    assert header.identity.study_instance_uid is None
    assert header.identity.patient_name == "Phantom^Drawn 0"


def test_quiet_restores_the_filters_when_threads_overlap() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with suppress_parser_warnings():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    with suppress_parser_warnings():
        thread.start()
        assert inside.wait(30)
    warnings.warn("still silent: the other thread is inside", UserWarning, stacklevel=1)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before


def test_pixels_are_writable_and_contiguous() -> None:
    for data in (phantoms.to_dicom(FILM), phantoms.to_jpeg(FILM), phantoms.to_png(FILM, 16)):
        _, pixels = read(data)
        assert pixels.flags.c_contiguous
        assert pixels.dtype == np.uint8


def test_grey_stored_as_colour_is_read() -> None:
    data = phantoms.to_dicom(FILM, Encoding(bits=8, voi="none"))
    neutral = np.full_like(FILM, 128)
    for photometric, channels in (("RGB", (FILM, FILM, FILM)), ("YBR_FULL", (FILM, neutral, neutral))):
        for planar in (0, 1):
            stacked = np.stack(channels, axis=-1 if planar == 0 else 0)
            colours = with_elements(
                data,
                SamplesPerPixel=3,
                PhotometricInterpretation=photometric,
                PlanarConfiguration=planar,
                PixelData=stacked.tobytes(),
            )
            assert apart(read(colours)[1]) == 0


def test_halved_colour_is_read() -> None:
    quads = np.full((96, 64, 4), 128, np.uint8)
    quads[:, :, 0], quads[:, :, 1] = FILM[:, 0::2], FILM[:, 1::2]
    data = with_elements(
        phantoms.to_dicom(FILM, Encoding(bits=8, voi="none")),
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422",
        PlanarConfiguration=0,
        PixelData=quads.tobytes(),
    )
    assert apart(read(data)[1]) == 0


@pytest.mark.parametrize("syntax", ["explicit", "big-endian"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_palette_is_looked_up(syntax: str, bits: int) -> None:
    """Turned round, so that an index taken for a grey level would show."""
    table = (255 - np.arange(256)).astype(np.uint16) * (257 if bits == 16 else 1)
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        order = ">u2" if syntax == "big-endian" else "<u2"
        elements[f"{colour}PaletteColorLookupTableData"] = table.astype(order).tobytes()
    data = phantoms.to_dicom(FILM, Encoding(syntax, bits=8, voi="none"))
    _, pixels = read(with_elements(data, **elements))
    assert np.abs(pixels.astype(int) - (255 - FILM.astype(int))).max() == 0


def test_eight_bits_in_swapped_words_are_read() -> None:
    """Explicit big endian with 8-bit samples as OW: the bytes of each word change places (PS3.5 8.1.1)."""
    data = pydicom.dcmread(io.BytesIO(phantoms.to_dicom(FILM, Encoding("big-endian", bits=8))))
    data.PixelData = FILM.reshape(-1, 2)[:, ::-1].tobytes()
    data["PixelData"].VR = "OW"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data)
    assert apart(read(stream.getvalue())[1]) == 0


def test_a_sequence_of_icons_is_not_the_film() -> None:
    icon = Dataset()
    icon.Rows, icon.Columns, icon.PixelData = 2, 2, b"\1\2\3\4"
    icon["PixelData"].VR = "OB"
    assert apart(read(with_elements(phantoms.to_dicom(FILM), IconImageSequence=[icon]))[1]) <= 1

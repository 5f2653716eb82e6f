"""Damaged films to throw at a worker: seeds from pydicom's test files and from phantoms, and ways to damage them.

Everything is a function of the seed and the number of the film, so that a finding can be had again.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import pydicom
import pydicom.encaps
from PIL import Image

from preread.core.types import PixelArray
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.support import files

SIDE_PX = 64
SEED_BYTES_MAX = 150_000
# What films are made from, in percent: by the first word of a seed's name. Most of pydicom's own hold no pixels.
SHARES = {"phantom": 35, "extra": 20, "graft": 20, "picture": 12, "pydicom": 13}
HOSTILE_NUMBERS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 127, 128, 255, 256, 4095, 4096, 32767, 32768, 65534, 65535)
HOSTILE_LENGTHS = (0, 1, 2, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# The Image Pixel Module and what steers rendering: (group, element).
STEERING = (
    *((0x0028, element) for element in (0x02, 0x04, 0x06, 0x08, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x121)),
    *((0x0028, element) for element in (0x1050, 0x1051, 0x1052, 0x1053, 0x1101, 0x1201, 0x3000, 0x3002, 0x3010)),
    (0x0002, 0x0010), (0x0008, 0x0005), (0x0010, 0x1010), (0x7FE0, 0x0010),
)  # fmt: skip
JPEG_MARKERS = bytes.fromhex(
    "c0 c1 c2 c3 c4 cc d0 d8 d9 da db dc dd e0 e1 e8 ee f7 f8 fe 4f 50 51 52 53 55 57 58 5c 5d 5e 5f 60 61 63 64 90 93"
)


def seeds() -> dict[str, bytes]:
    """Return whole films by name: phantoms in every form, pydicom's small files, their pixels in a chest's header."""
    film = phantoms.draw_chest(5, rows=SIDE_PX, columns=SIDE_PX)
    found = {f"phantom {name}": phantoms.to_dicom(film, encoding) for name, encoding in phantoms.list_encodings()}
    found["phantom bare"] = phantoms.to_dicom(film, Encoding("implicit", preamble=False))
    found |= {f"picture {name}": data for name, data in _pictures(film)}
    found |= {f"extra {name}": data for name, data in (*_extras(film), *_deviations(film))}
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".py" and 0 < path.stat().st_size <= SEED_BYTES_MAX:
            name = path.relative_to(folder).as_posix()
            found[f"pydicom {name}"] = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                grafted = _grafted(path)
            if grafted is not None:
                found[f"graft {name}"] = grafted
    return found


def _pictures(film: PixelArray) -> list[tuple[str, bytes]]:
    """JPEG and PNG in forms that Pillow writes beside the usual ones."""
    written = [("grey.jpg", phantoms.to_jpeg(film)), ("grey.png", phantoms.to_png(film))]
    written.append(("16-bit.png", phantoms.to_png(film, bits=16)))
    grey = Image.fromarray(film)
    forms: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "12-bits-in-16.png": (Image.fromarray(film.astype("uint16") * 16), "PNG", {}),
        "progressive.jpg": (grey, "JPEG", {"progressive": True}),
        "colour.jpg": (grey.convert("RGB"), "JPEG", {}),
        "cmyk.jpg": (grey.convert("RGB").convert("CMYK"), "JPEG", {}),
        "palette.png": (grey.convert("P"), "PNG", {}),
        "one-bit.png": (grey.convert("1"), "PNG", {}),
        "alpha.png": (grey.convert("LA"), "PNG", {}),
        "colour.png": (grey.convert("RGB"), "PNG", {}),
    }
    for name, (picture, kind, options) in forms.items():
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        written.append((name, stream.getvalue()))
    return written


def _box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


def _extras(film: PixelArray) -> Iterator[tuple[str, bytes]]:
    """Films whose codec may carry more than a picture needs: boxes, marker segments, chunks, tile-parts."""

    def of(syntax: str, change: Callable[[bytes], bytes]) -> bytes:
        encoding = Encoding(syntax, bits=8)
        whole = pydicom.dcmread(io.BytesIO(phantoms.to_dicom(film, encoding)))
        frame = next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1))
        whole.PixelData = pydicom.encaps.encapsulate([change(frame)])
        stream = io.BytesIO()
        whole.save_as(stream)
        return stream.getvalue()

    def boxes(*within: bytes) -> Callable[[bytes], bytes]:
        shape = _box(b"ihdr", struct.pack(">IIHBBBB", *film.shape, 1, 7, 7, 0, 0))
        head = _box(b"jp2h", shape + _box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17)) + b"".join(within))
        start = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        return lambda frame: start + head + _box(b"xml ", b"<a/>") + _box(b"uuid", bytes(24)) + _box(b"jp2c", frame)

    def behind(position: int, extra: bytes) -> Callable[[bytes], bytes]:
        return lambda frame: frame[:position] + extra + frame[position:]

    def in_header(extra: bytes) -> Callable[[bytes], bytes]:
        return lambda frame: frame.replace(b"\xff\x90\x00\x0a", extra + b"\xff\x90\x00\x0a", 1)

    def in_parts(frame: bytes) -> bytes:
        start, end = frame.index(b"\xff\x90\x00\x0a"), frame.rindex(b"\xff\xd9")
        packets = frame[frame.index(b"\xff\x93", start) + 2 : end]
        cuts = [packets[at : at + len(packets) // 4 + 1] for at in range(0, len(packets), len(packets) // 4 + 1)]
        parts = [
            struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + 8 + len(one), index, 0)
            + _segment(0xFF58, b"\0" * 4)
            + b"\xff\x93"
            for index, one in enumerate(cuts)
        ]
        return frame[:start] + b"".join(map(bytes.__add__, parts, cuts)) + frame[end:]

    grey = bytes(range(256))
    palette = _box(b"pclr", struct.pack(">HBB", 256, 1, 7) + grey), _box(b"cmap", struct.pack(">HBB", 0, 1, 0))
    described = b"".join(_segment(marker, bytes(6)) for marker in (0xFF55, 0xFF57, 0xFF63, 0xFF64))
    yield "jp2-boxes.dcm", of("jpeg-2000", boxes())
    yield "jp2-palette.dcm", of("jpeg-2000", boxes(*palette))
    yield "jp2-channels.dcm", of("jpeg-2000-lossless", boxes(_box(b"cdef", struct.pack(">4H", 1, 0, 0, 0))))
    yield "htj2k-boxes.dcm", of("htj2k", boxes())
    yield "j2k-segments.dcm", of("jpeg-2000-lossless", in_header(described))
    yield "htj2k-segments.dcm", of("htj2k-lossless", in_header(described))
    yield "j2k-parts.dcm", of("jpeg-2000", in_parts)
    for syntax in ("jpeg-baseline", "jpeg-lossless-sv1", "jpeg-ls"):
        added = (
            _segment(0xFFE1, b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)) + _segment(0xFFFE, b"made by") + _segment(0xFFE8)
        )
        yield f"{syntax}-segments.dcm", of(syntax, behind(2, added + _segment(0xFFEE, b"Adobe" + bytes(7))))
    plain = phantoms.to_png(film)
    for name, kind in (("text.png", b"tEXt"), ("profile.png", b"iCCP"), ("exif.png", b"eXIf"), ("frames.png", b"acTL")):
        content = b"Raw profile type exif\0\0" + bytes(20)
        chunk = struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        yield name, plain[:33] + chunk + plain[33:]


def _deviations(film: PixelArray) -> Iterator[tuple[str, bytes]]:
    """Files that deviate from the standard and are read all the same."""
    explicit = phantoms.to_dicom(film)
    creator = struct.pack("<HH2sH", 0x29, 0x10, b"LO", 8) + b"ACME 1.0"
    for name, vr in (("blank", b"  "), ("zero", b"\0\0"), ("future", b"ZZ")):
        element = struct.pack("<HH2sH", 0x29, 0x1002, vr, 6) + b"abcdef"
        yield f"vr-{name}.dcm", files.before_pixel_data(explicit, creator + element * 3)
    item = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0xFFFFFFFF, 8, 0x100, 4) + b"ABCD"
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    unknown = creator + struct.pack("<HH2sHI", 0x29, 0x1001, b"UN", 0, 0xFFFFFFFF) + item + ends
    yield "unknown-sequence.dcm", files.before_pixel_data(explicit, unknown)
    name = "Zhang^San=\x1b$)A\xd5\xc5"
    yield "escapes.dcm", phantoms.to_dicom(film, SpecificCharacterSet="ISO_IR 100", PatientName=name)
    for syntax in ("rle", "jpeg-ls", "jpeg-lossless-sv1"):
        whole = phantoms.to_dicom(film, Encoding(syntax))
        frame = files.frame_of(whole)
        table = struct.pack("<2I", 0, len(frame) + 8)
        padded = frame.rstrip(b"\0")[:-2] + bytes(3) + b"\xff\xd9" if syntax == "jpeg-ls" else frame + b" " * 3
        padded += b"\0" * (len(padded) % 2)
        yield (
            f"{syntax}-padded.dcm",
            files.with_pixel_data(whole, files.encapsulated(padded, table=table, end=bytes(9))),
        )
    values = film.astype("uint16") * 16
    yield "extended.jpg", bytes(imagecodecs.jpeg8_encode(values, level=90, bitspersample=12))
    yield "lossless.jpg", bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12))


def _grafted(path: Path) -> bytes | None:
    """Put the file's pixel data under the header of a child's chest film, so that the gate lets it reach a decoder."""
    try:
        dataset = pydicom.dcmread(path)
        if "PixelData" not in dataset:
            return None
        for keyword, value in phantoms.make_identity_elements(1).items():
            setattr(dataset, keyword, value)
        stream = io.BytesIO()
        dataset.save_as(stream)
    except Exception:  # noqa: BLE001  some of these files are broken on purpose: they are seeds as they are
        return None
    return stream.getvalue()


# --------------------------------------------------------------------------- ways to damage


def _place(rng: random.Random, data: bytearray) -> int:
    """Any place; half of the time one in the first part, where the header stands."""
    return rng.randrange(min(len(data), 1600) if rng.random() < 0.5 else len(data))


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def set_bytes(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def set_length(rng: random.Random, data: bytearray) -> None:
    """Overwrite what may be a length with one that nobody can mean."""
    at, order = _place(rng, data), rng.choice("<>")
    value = rng.choice(HOSTILE_LENGTHS)
    written = struct.pack(f"{order}I", value) if rng.random() < 0.5 else struct.pack(f"{order}H", value & 0xFFFF)
    data[at : at + len(written)] = written


def set_steering(rng: random.Random, data: bytearray) -> None:
    """Give an element of the pixel module, or another that steers rendering, a hostile value, length or VR."""
    group, element = rng.choice(STEERING)
    order = rng.choice("<<<>")
    at = data.find(struct.pack(f"{order}HH", group, element), rng.choice((0, 132)))
    if at < 0 or at + 12 > len(data):
        flip_bits(rng, data)
        return
    what = rng.random()
    if what < 0.6:
        written = struct.pack(f"{order}H", rng.choice(HOSTILE_NUMBERS))
        data[at + 8 : at + 8 + len(written)] = written
    elif what < 0.8:
        data[at + 6 : at + 8] = struct.pack(f"{order}H", rng.choice(HOSTILE_LENGTHS) & 0xFFFF)
    elif what < 0.9:
        data[at + 4 : at + 6] = rng.choice((b"UN", b"SQ", b"OB", b"OW", b"DS", b"IS", b"US", b"AT", b"\0\0", b"FD"))
    else:
        data[at : at + 4] = struct.pack(f"{order}HH", *rng.choice(STEERING))


def set_text(rng: random.Random, data: bytearray) -> None:
    """Write text that a number, a path, a terminal or a page would choke on over some of the header."""
    at = _place(rng, data)
    text = rng.choice(
        (
            b"nan",
            b"inf",
            b"-1e999",
            b"9" * 16,
            b"\\\\\\\\",
            b"../../x",
            b"\x1b[2J",
            b"<script>",
            b"\xff\xfe\xfd",
            b"%s%n",
        )
    )
    data[at : at + len(text)] = text


def set_marker(rng: random.Random, data: bytearray) -> None:
    """Put a JPEG marker somewhere, perhaps with a length behind it."""
    at = data.find(b"\xff", _place(rng, data))
    at = at if at >= 0 else _place(rng, data)
    written = bytes((0xFF, rng.choice(JPEG_MARKERS)))
    if rng.random() < 0.5:
        written += struct.pack(">H", rng.choice(HOSTILE_LENGTHS) & 0xFFFF)
    data[at : at + len(written)] = written


def add_piece(rng: random.Random, data: bytearray) -> None:
    """Put a marker segment, a box or a chunk where another begins, with any content."""
    content = rng.randbytes(rng.choice((0, 1, 2, 6, 40, 400)))
    form = rng.random()
    if form < 0.6:
        at = data.find(b"\xff", _place(rng, data))
        piece = _segment(0xFF00 | rng.choice((*JPEG_MARKERS, rng.randrange(256))), content)
    elif form < 0.8:
        kind = rng.choice((b"pclr", b"cmap", b"cdef", b"jp2h", b"jp2c", b"ihdr", b"bpcc", b"free", rng.randbytes(4)))
        at = data.find(rng.choice((b"jP  ", b"ftyp", b"ihdr", b"colr", b"jp2c")))
        at, piece = at - 4 if at >= 4 else -1, _box(kind, content)
    else:
        kind = rng.choice((b"PLTE", b"tRNS", b"IDAT", b"IHDR", b"IEND", b"acTL", b"fdAT", b"iCCP", rng.randbytes(4)))
        at = data.find(rng.choice((b"IHDR", b"IDAT", b"IEND")))
        checked = zlib.crc32(kind + content).to_bytes(4, "big")
        at, piece = at - 4 if at >= 4 else -1, struct.pack(">I", len(content)) + kind + content + checked
    at = at if at >= 0 else _place(rng, data)
    data[at:at] = piece


def cut(rng: random.Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def lose(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 13, 512, 5000))]


def repeat(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    part = data[at : at + rng.choice((1, 2, 8, 100, 3000))]
    data[at:at] = part * rng.choice((1, 2, 50))


def insert(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 40, 400)))


def zero(rng: random.Random, data: bytearray) -> None:
    """As in a file that was preallocated and not filled."""
    at = _place(rng, data)
    end = len(data) if rng.random() < 0.5 else min(len(data), at + rng.choice((1, 16, 512, 8192)))
    data[at:end] = bytes(end - at)


def swap(rng: random.Random, data: bytearray) -> None:
    one, other, count = _place(rng, data), _place(rng, data), rng.choice((2, 8, 64, 512))
    first, second = data[one : one + count], data[other : other + count]
    data[one : one + len(first)], data[other : other + len(second)] = second, first


WAYS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flip_bits, flip_bits, set_bytes, set_length, set_length, set_steering, set_steering, set_steering, set_text,
    set_marker, add_piece, add_piece, cut, lose, repeat, insert, zero, swap,
)  # fmt: skip


def mutated(seed: int, number: int, films: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the name of the film that was damaged, and what became of it. At most 2 MB."""
    rng = random.Random(f"{seed} {number}")
    names = sorted(films)
    (group,) = rng.choices(list(SHARES), list(SHARES.values()))
    name = rng.choice([name for name in names if name.split()[0] == group])
    data = bytearray(films[name])
    if rng.random() < 0.08:  # the head of one film on the tail of another
        other = films[rng.choice(names)]
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            rng.choice(WAYS)(rng, data)
    return name, bytes(data[:2_000_000])

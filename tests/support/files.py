"""Damage to DICOM files as their writers cause it."""

from __future__ import annotations

import struct

_PIXEL_DATA = b"\xe0\x7f\x10\x00O"
_ENCAPSULATED = _PIXEL_DATA + b"B\x00\x00\xff\xff\xff\xff"
DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encapsulated(*fragments: bytes, table: bytes = b"", end: bytes = DELIMITER) -> bytes:
    """Return items of encapsulated pixel data (PS3.5 A.4).

    Args:
        fragments: the fragments.
        table: content of the Basic Offset Table.
        end: what stands in place of the sequence delimiter.
    """
    pieces = (table, *fragments)
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece for piece in pieces) + end


def with_pixel_data(data: bytes, items: bytes) -> bytes:
    """Replace the encapsulated pixel data of a file."""
    head, mark, _ = data.partition(_ENCAPSULATED)
    assert mark
    return head + mark + items


def frame_of(data: bytes) -> bytes:
    """Return the only fragment of a file's pixel data, without padding."""
    _, mark, rest = data.partition(_ENCAPSULATED)
    assert mark
    (table,) = struct.unpack_from("<I", rest, 4)
    (length,) = struct.unpack_from("<I", rest, 12 + table)
    return rest[16 + table : 16 + table + length]


def before_pixel_data(data: bytes, raw: bytes) -> bytes:
    """Insert elements before the pixel data of an explicit little-endian file."""
    head, mark, rest = data.partition(_PIXEL_DATA)
    assert mark
    return head + raw + mark + rest


def with_transfer_syntax(data: bytes, uid: str) -> bytes:
    """Overwrite the Transfer Syntax UID of the File Meta Information."""
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    at = data.index(b"\x02\x00\x10\x00UI")
    (old,) = struct.unpack_from("<H", data, at + 6)
    (group,) = struct.unpack_from("<I", data, 140)
    head = data[:140] + struct.pack("<I", group + len(raw) - old) + data[144 : at + 6]
    return head + struct.pack("<H", len(raw)) + raw + data[at + 8 + old :]

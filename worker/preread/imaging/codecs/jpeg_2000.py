"""JPEG 2000 and HTJ2K frames, rebuilt from the segments for decoding.

See ITU-T T.800 and T.814. The decoder receives a codestream written here: the main header from the marker segments
listed below, and one tile-part for each tile. Descriptive segments (comments, length indices, JP2 boxes) are dropped.
Features on which the samples depend and that no radiograph uses (palette, packed packet headers, progression order
change, extensions) are errors, as are unknown markers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from preread.core.errors import DecodeFailed, TruncatedPixels, UnsupportedPixels
from preread.imaging.codecs.codestreams import Codestream

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_SOC, _SOT, _SOD, _EOC = b"\xff\x4f", 0xFF90, 0xFF93, b"\xff\xd9"
_SIZ, _CAP, _COD, _COC, _QCD, _QCC, _RGN = 0xFF51, 0xFF50, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D, 0xFF5E
KEPT = frozenset({_SIZ, _CAP, _COD, _COC, _QCD, _QCC, _RGN})
"""Marker segments of the main header that the decoder receives."""
DROPPED = frozenset({0xFF55, 0xFF56, 0xFF57, 0xFF59, 0xFF63, 0xFF64})
"""TLM, PRF, PLM, CPF, CRG and COM, on which the samples do not depend."""
KEPT_IN_TILES = frozenset({_COD, _COC, _QCD, _QCC, _RGN})
"""Marker segments of a tile's first tile-part that the decoder receives."""
DROPPED_IN_TILES = frozenset({0xFF58, 0xFF64})
"""PLT and COM of any tile-part, on which the samples do not depend."""
PALETTE_BOXES = frozenset({b"pclr", b"cmap"})

# For 8000 x 8000 pixels in tiles of 64, one tile-part per resolution, code-blocks of 8 x 8, layers and precincts.
_TILES_MAX = 16_384
_TILE_PARTS_MAX = 131_072
_BLOCKS_MAX = 2_000_000
_PACKETS_MAX = 4_000_000
_TABLE_MAX = 4_000_000
# Boxes and dropped segments; each takes about a microsecond to parse.
_PIECES_MAX = 100_000
_COMPONENTS_MAX = 4
_STEPS_MAX = 97
_SHIFT_MAX = 37


_EVERYWHERE = -1


@dataclass(frozen=True, slots=True)
class _Grid:
    """Components and tiles of the image, from SIZ (T.800 A.5.1, B.3)."""

    components: int
    tile_columns: int
    tile_rows: int
    tiles: int


@dataclass(frozen=True, slots=True)
class _Style:
    """Coding style of a component (T.800 table A.15).

    Attributes:
        levels: number of decomposition levels, 0 to 32.
        block: exponents of width and height of its code-blocks.
        precincts: exponents of width and height of its precincts, by resolution.
    """

    levels: int
    block: tuple[int, int]
    precincts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Coding:
    """Coding parameters in the segments of a header.

    Attributes:
        layers: number of layers.
        styles: by component, or ``_EVERYWHERE``.
        steps: number of quantisation step sizes by component, or ``_EVERYWHERE``.
    """

    layers: int
    styles: dict[int, _Style]
    steps: dict[int, int]


def read_jpeg_2000_size(data: bytes) -> Codestream:
    """Read size and sample format of a JPEG 2000 frame (T.800 A.5.1).

    Args:
        data: the codestream, or JP2 boxes with one.

    Raises:
        DecodeFailed: it is not a JPEG 2000 codestream, or its components differ in size or depth.
        UnsupportedPixels: its samples are palette indices.
        TruncatedPixels: it is truncated.
    """
    return _read_size(_main_header(_codestream(data))[0][0][1])


def rebuild_jpeg_2000_frame(data: bytes) -> bytes:
    """Rebuild a JPEG 2000 frame from the segments for decoding.

    Args:
        data: the codestream, or JP2 boxes with one.

    Raises:
        DecodeFailed: the frame is inconsistent, has unsupported segments, or is beyond the limits of this module.
        UnsupportedPixels, TruncatedPixels: as for ``read_jpeg_2000_size``.
    """
    view = _codestream(data)
    segments, position = _main_header(view)
    grid, size = _read_grid(segments[0][1])
    coding = _read_coding(segments[1:], grid, None)
    written: list[bytes | memoryview] = [_SOC, _segment(_SIZ, size)]
    written.extend(_segment(marker, content) for marker, content in segments[1:])
    blocks = packets = 0
    usual = _tile_bounds(coding, grid)
    for tile, (own, bodies) in enumerate(_tiles(view, position, grid.tiles)):
        bounds = _tile_bounds(_read_coding(own, grid, coding), grid) if own else usual
        blocks, packets = blocks + bounds[0], packets + bounds[1]
        head = b"".join(_segment(marker, content) for marker, content in own)
        length = len(head) + sum(map(len, bodies))
        written.append(struct.pack(">HHHIBB", _SOT, 10, tile, 14 + length, 0, 1) + head + _SOD.to_bytes(2, "big"))
        written.extend(bodies)
    if blocks > _BLOCKS_MAX:
        raise DecodeFailed(f"The JPEG 2000 codestream has up to {blocks} code-blocks; the limit is {_BLOCKS_MAX}.")
    if packets > _PACKETS_MAX:
        raise DecodeFailed(f"The JPEG 2000 codestream has up to {packets} packets; the limit is {_PACKETS_MAX}.")
    return b"".join((*written, _EOC))


def count_decomposition_levels(data: bytes) -> int:
    """Count the decomposition levels of a JPEG 2000 frame (T.800 A.6.1).

    The resolution can be halved that many times; a tile may have fewer levels.
    """
    segments, _ = _main_header(_codestream(data))
    coding = next((content for marker, content in segments if marker == _COD), b"")
    return coding[5] if len(coding) > 5 else 0


def _codestream(data: bytes) -> memoryview:
    view = memoryview(data)
    return _unboxed(view) if data.startswith(_JP2_SIGNATURE) else view


def _main_header(view: memoryview) -> tuple[list[tuple[int, bytes]], int]:
    """Return the kept marker segments, and the first tile-part's offset."""
    if bytes(view[:4]) != _SOC + _SIZ.to_bytes(2, "big"):
        raise DecodeFailed("The JPEG 2000 codestream does not begin with the markers FF4F and FF51 (SOC and SIZ).")
    return _walk(view, 2, _SOT, KEPT, DROPPED)


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of each JP2 box (T.800 I.4)."""
    position = 0
    for _ in range(_PIECES_MAX):
        if position + 8 > len(view):
            return
        length, kind = struct.unpack_from(">I4s", view, position)
        head = 8
        if length == 1 and position + 16 <= len(view):
            (length,) = struct.unpack_from(">Q", view, position + 8)
            head = 16
        elif length == 0:
            length = len(view) - position
        if length < head:
            raise DecodeFailed(
                f"A box of the JPEG 2000 file (JP2) in the pixel data states length {length}; the minimum is {head}."
            )
        if position + length > len(view):
            raise TruncatedPixels(
                "A box of the JPEG 2000 file (JP2) in the pixel data "
                f"states {length} bytes; {len(view) - position} follow."
            )
        yield kind, view[position + head : position + length]
        position += length
    raise DecodeFailed(
        f"The JPEG 2000 file (JP2) in the pixel data has more than {_PIECES_MAX} boxes, which is the limit."
    )


def _unboxed(view: memoryview) -> memoryview:
    """Return the codestream in JP2 boxes, not allowed (PS3.5 A.4.4) but found."""
    for kind, content in _boxes(view):
        if kind == b"jp2h" and any(inner in PALETTE_BOXES for inner, _ in _boxes(content)):
            raise UnsupportedPixels(
                "The JPEG 2000 image has a colour palette (box pclr or cmap), which is not supported."
            )
        if kind == b"jp2c":
            return content
    raise DecodeFailed("The JPEG 2000 file (JP2) in the pixel data has no codestream (box jp2c); 1 is required.")


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


def _walk(
    view: memoryview,
    position: int,
    end_marker: int,
    kept: frozenset[int],
    dropped: frozenset[int],
) -> tuple[list[tuple[int, bytes]], int]:
    """Return the kept marker segments up to ``end_marker``, and its offset."""
    segments: list[tuple[int, bytes]] = []
    for _ in range(_PIECES_MAX):
        marker = int.from_bytes(view[position : position + 2], "big")
        if marker == end_marker:
            return segments, position
        if position + 4 > len(view):
            break
        (length,) = struct.unpack_from(">H", view, position + 2)
        if marker not in kept and marker not in dropped:
            raise DecodeFailed(f"The JPEG 2000 codestream has the marker {marker:04X}, which is not supported.")
        if length < 2:
            raise DecodeFailed(
                f"A JPEG 2000 segment with the marker {marker:04X} states length {length}; the minimum is 2."
            )
        if position + 2 + length > len(view):
            break
        if marker in kept:
            segments.append((marker, bytes(view[position + 4 : position + 2 + length])))
        position += 2 + length
    else:
        raise DecodeFailed(
            f"A header of the JPEG 2000 codestream has more than {_PIECES_MAX} marker segments, which is the limit."
        )
    raise TruncatedPixels(f"The JPEG 2000 codestream ends after {len(view)} bytes, within a header.")


def _read_size(content: bytes) -> Codestream:
    """Read size and depth from the SIZ segment (T.800 A.5.1)."""
    if len(content) < 36:
        raise DecodeFailed(f"The size segment (SIZ) of the JPEG 2000 codestream has {len(content)} bytes; it needs 36.")
    right, bottom, left, top = struct.unpack_from(">4I", content, 2)
    (samples,) = struct.unpack_from(">H", content, 34)
    components = content[36:]
    if not 1 <= samples <= _COMPONENTS_MAX or len(components) != 3 * samples:
        raise DecodeFailed(f"The JPEG 2000 codestream has {samples} components; 1 to {_COMPONENTS_MAX} are supported.")
    depths, steps = set(components[0::3]), set(components[1::3]) | set(components[2::3])
    if len(depths) != 1 or steps != {1} or right <= left or bottom <= top:
        raise DecodeFailed(
            f"The {samples} components of the JPEG 2000 codestream differ in size or bit depth, or have 0 pixels, "
            "which is not supported."
        )
    depth = components[0]
    return Codestream(bottom - top, right - left, samples, (depth & 0x7F) + 1, signed=bool(depth & 0x80))


def _read_grid(content: bytes) -> tuple[_Grid, bytes]:
    """Check the tiles.

    Returns:
        The tiles, and the SIZ segment with tiles limited to the image, which changes no sample.
    """
    extent = _read_size(content)
    left, top, width, height, tile_left, tile_top = struct.unpack_from(">6I", content, 10)
    if left or top or tile_left or tile_top:
        raise DecodeFailed(f"The JPEG 2000 image begins at {left}, {top} of its grid; only 0, 0 is supported.")
    if not width or not height:
        raise DecodeFailed(f"The tiles of the JPEG 2000 codestream have {height} x {width} pixels, fewer than 1.")
    width, height = min(width, extent.columns), min(height, extent.rows)
    tiles = -(-extent.columns // width) * -(-extent.rows // height)
    if tiles > _TILES_MAX:
        raise DecodeFailed(f"The JPEG 2000 codestream has {tiles} tiles; the limit is {_TILES_MAX}.")
    written = content[:2] + struct.pack(">8I", extent.columns, extent.rows, 0, 0, width, height, 0, 0) + content[34:]
    return _Grid(extent.samples, width, height, tiles), written


def _read_coding(segments: list[tuple[int, bytes]], grid: _Grid, inherited: _Coding | None) -> _Coding:
    """Check the coding segments of a header, on which decoders rely.

    Args:
        segments: marker and content of each.
        grid: components and tiles of the image.
        inherited: parameters of the main header if the segments are a tile's, else ``None``.
    """
    seen: set[tuple[int, int]] = set()
    styles: dict[int, _Style] = {}
    steps: dict[int, int] = {}
    layers = inherited.layers if inherited else 0
    for marker, raw in segments:
        component, content = _EVERYWHERE, raw
        if marker in {_COC, _QCC, _RGN}:
            component, content = _component(raw, grid.components)
        if (marker, component) in seen:
            raise DecodeFailed(
                f"A header of the JPEG 2000 codestream has the marker {marker:04X} twice; the limit is 1."
            )
        seen.add((marker, component))
        if marker == _COD:
            if len(content) < 5 or content[0] > 7 or content[1] > 4 or content[4] > 1:
                raise _damaged(marker)
            (layers,) = struct.unpack_from(">H", content, 2)
            styles[component] = _read_style(marker, content[5:], precincts=bool(content[0] & 1))
        elif marker == _COC:
            if not content or content[0] > 1:
                raise _damaged(marker)
            styles[component] = _read_style(marker, content[1:], precincts=bool(content[0]))
        elif marker in {_QCD, _QCC}:
            steps[component] = _read_steps(marker, content)
        elif marker == _RGN:
            if len(content) != 2 or content[0] != 0 or content[1] > _SHIFT_MAX:
                raise _damaged(marker)
        elif marker != _CAP or len(content) != 6 or content[:4] != b"\x00\x02\x00\x00":  # Part 15 and nothing else
            raise _damaged(marker)
    if inherited:  # a tile's COD takes precedence over a COC of the main header (T.800 A.6.1, A.6.4)
        styles = styles if _EVERYWHERE in styles else inherited.styles | styles
        steps = steps if _EVERYWHERE in steps else inherited.steps | steps
    if _EVERYWHERE not in styles or _EVERYWHERE not in steps or layers == 0:
        raise DecodeFailed(
            "The main header of the JPEG 2000 codestream lacks its coding style (COD) or quantisation (QCD), or "
            "states 0 layers."
        )
    for component in range(grid.components):
        style = styles.get(component, styles[_EVERYWHERE])
        count, required = steps.get(component, steps[_EVERYWHERE]), 3 * style.levels + 1
        if count < required:
            raise DecodeFailed(
                f"The JPEG 2000 codestream has {count} quantisation steps; its {style.levels} decomposition levels "
                f"require {required}."
            )
    return _Coding(layers, styles, steps)


def _damaged(marker: int) -> DecodeFailed:
    return DecodeFailed(
        f"A segment of the JPEG 2000 codestream (marker {marker:04X}) is damaged: its values or its length are invalid."
    )


def _component(content: bytes, components: int) -> tuple[int, bytes]:
    """Return component number (one byte with few components) and the rest."""
    if not content or content[0] >= components:
        raise DecodeFailed(
            f"A segment of the JPEG 2000 codestream is for none of the {components} components that the image has."
        )
    return content[0], content[1:]


def _read_style(marker: int, content: bytes, *, precincts: bool) -> _Style:
    if len(content) < 5:
        raise _damaged(marker)
    levels, width, height, style, wavelet = content[:5]
    sizes = content[5:]
    is_valid = levels <= 32 and width + height <= 8 and style <= 0x7F and wavelet <= 1
    if (
        not is_valid
        or len(sizes) != (levels + 1 if precincts else 0)
        or any(not size & 15 or size < 16 for size in sizes[1:])
    ):
        raise _damaged(marker)
    exponents = tuple((size & 15, size >> 4) for size in sizes) or ((15, 15),) * (levels + 1)
    return _Style(levels, (width + 2, height + 2), exponents)


def _read_steps(marker: int, content: bytes) -> int:
    """Return the number of subbands with a step size (T.800 table A.28)."""
    kind = content[0] & 31 if content else 3
    if kind > 2:
        raise _damaged(marker)
    count, rest = divmod(len(content) - 1, 1 if kind == 0 else 2)
    if rest or not 1 <= count <= _STEPS_MAX or (kind == 1 and count != 1):
        raise _damaged(marker)
    return _STEPS_MAX if kind == 1 else count


def _spans(length: int, exponent: int) -> int:
    """Return the most intervals of 2**exponent that the samples overlap."""
    return ((length + (1 << exponent) - 2) >> exponent) + 1


def _tile_bounds(coding: _Coding, grid: _Grid) -> tuple[int, int]:
    """Return upper bounds on the code-blocks and packets of a tile.

    They determine a decoder's memory and time.
    """
    blocks = packets = most = resolutions = 0
    for component in range(grid.components):
        style = coding.styles.get(component, coding.styles[_EVERYWHERE])
        resolutions = max(resolutions, style.levels + 1)
        for resolution, (across, down) in enumerate(style.precincts):
            shift = style.levels - resolution
            columns, rows = -(-grid.tile_columns >> shift), -(-grid.tile_rows >> shift)
            precincts = _spans(columns, across) * _spans(rows, down)
            packets += precincts
            most = max(most, precincts)
            bands, half = (3, 1) if resolution else (1, 0)
            wide = _spans(-(-columns >> half), min(style.block[0], across - half))
            high = _spans(-(-rows >> half), min(style.block[1], down - half))
            blocks += bands * wide * high
    # Decoders allocate a table of packets as if each resolution had as many precincts as the finest.
    if (table := most * resolutions * grid.components * coding.layers) > _TABLE_MAX:
        raise DecodeFailed(f"A tile of the JPEG 2000 codestream has up to {table} packets; the limit is {_TABLE_MAX}.")
    return blocks, packets * coding.layers


def _tiles(view: memoryview, position: int, tiles: int) -> list[tuple[list[tuple[int, bytes]], list[memoryview]]]:
    """Return marker segments and packets of each tile (T.800 A.4.2)."""
    own: list[list[tuple[int, bytes]]] = [[] for _ in range(tiles)]
    bodies: list[list[memoryview]] = [[] for _ in range(tiles)]
    announced = [0] * tiles
    for _ in range(_TILE_PARTS_MAX):
        if position + 12 > len(view):
            break
        marker, length, tile, size, part, parts = struct.unpack_from(">HHHIBB", view, position)
        if marker != _SOT:
            break
        if length != 10 or tile >= tiles or part != len(bodies[tile]):
            raise DecodeFailed(
                f"A tile-part header of the JPEG 2000 codestream (length {length}, tile {tile} of {tiles}, part "
                f"{part}) is damaged or out of order."
            )
        end = position + size if size else _end(view, position)
        if end > len(view):
            raise TruncatedPixels(
                f"The JPEG 2000 codestream ends after {len(view)} bytes; its tile {tile} requires {end}."
            )
        kept = frozenset[int]() if part else KEPT_IN_TILES
        segments, start = _walk(view[:end], position + 12, _SOD, kept, DROPPED_IN_TILES)
        own[tile].extend(segments)
        bodies[tile].append(view[start + 2 : end])
        announced[tile] = max(announced[tile], parts)
        position = end
    else:
        raise DecodeFailed(f"The JPEG 2000 codestream has more than {_TILE_PARTS_MAX} tile-parts, which is the limit.")
    for tile, (packets, count) in enumerate(zip(bodies, announced, strict=True)):
        if len(packets) < count or not any(map(len, packets)):
            raise TruncatedPixels(
                f"Tile {tile} of {tiles} in the JPEG 2000 codestream has {len(packets)} of {count} parts, or no data."
            )
    return list(zip(own, bodies, strict=True))


def _end(view: memoryview, position: int) -> int:
    """Return the end of a last tile-part without a length."""
    end = bytes(view[position:]).rfind(_EOC)
    if end < 0:
        raise TruncatedPixels(f"The JPEG 2000 codestream ends after {len(view)} bytes, before its end marker FFD9.")
    return position + end

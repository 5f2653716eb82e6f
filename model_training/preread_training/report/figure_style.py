"""Style of the report's figures, and their encoding.

Colours after Okabe and Ito, which colour-blind people tell apart; a line's name stands beside it in its own colour.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_Args = ParamSpec("_Args")
Floats = npt.NDArray[np.float64]

INK, MUTED, FAINT = "#1f2a30", "#66747c", "#d5dbde"
ABSENT, PRESENT = "#0072b2", "#d55e00"
NETWORK, LINEAR, BORDER = "#00745c", "#8a5a00", "#8b8f92"
CATEGORIES = (ABSENT, PRESENT, "#9b4f86", "#56b4e9", "#b8860b", NETWORK)
_WIDTH_IN = 4.7
_PNG_DPI = 170
_NAMES_IN_A_ROW = 48

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "preread",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Curve:
    """A line with a band around it.

    Attributes:
        name: text beside it.
        x: float64 [points].
        y: float64 [points].
        low: float64 [points], lower edge of the band; ``None`` without a band.
        high: float64 [points], upper edge of the band; ``None`` without a band.
        colour: of line and band.
        dashes: style of the line in matplotlib.
    """

    name: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    colour: str = NETWORK
    dashes: str = "-"


def apply_style(draw: Callable[_Args, Figure]) -> Callable[_Args, Figure]:
    """Decorate a function that draws a figure, to draw in this style."""

    @functools.wraps(draw)
    def drawn(*args: _Args.args, **kwargs: _Args.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


@mpl.rc_context(_STYLE)
def encode_svg(figure: Figure) -> bytes:
    """Encode a figure of the report as SVG, the same bytes everywhere."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return stream.getvalue()


@mpl.rc_context(_STYLE)
def encode_png(figure: Figure) -> bytes:
    """Encode a figure of the report as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return stream.getvalue()


def make_panel(height_in: float) -> tuple[Figure, Axes]:
    """Return an empty figure of the report, of common width, and its axes."""
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def draw_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw faint lines at the ticks of a figure, behind the data."""
    axes.grid(visible=True, axis=axis, color=FAINT, linewidth=0.6)


def spread_labels(wanted: Sequence[float], gap: float) -> list[float]:
    """Move positions of a figure's labels apart, keeping their order.

    Args:
        wanted: the positions.
        gap: smallest distance of two labels.

    Returns:
        The new positions, in the order of ``wanted``.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    overshoot = (sum(placed) - sum(wanted)) / max(1, len(wanted))
    return [value - overshoot for value in placed]


def draw_names_of_bars(axes: Axes, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write the names of bars above a panel, in their colours."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(names) if len(" ".join(names)) <= _NAMES_IN_A_ROW else 2,
        frameon=False,
        labelcolor=list(colours[: len(names)]),
        handlelength=0.8,
        handleheight=0.8,
        columnspacing=1.2,
        fontsize=8.5,
    )

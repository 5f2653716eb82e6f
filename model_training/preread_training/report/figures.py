"""Figures of the report, drawn from arrays.

No function reads a run or writes a file. Each figure has one panel, so that a phone can stack them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from preread_training.report.figure_style import (
    ABSENT,
    CATEGORIES,
    FAINT,
    INK,
    MUTED,
    NETWORK,
    PRESENT,
    Curve,
    Floats,
    apply_style,
    draw_grid,
    draw_names_of_bars,
    make_panel,
    spread_labels,
)


@apply_style
def draw_class_balance(parts: Sequence[str], names: Sequence[str], counts: npt.NDArray[np.int64], unit: str) -> Figure:
    """Draw the report's class balance: a stacked bar for each part.

    Args:
        parts: of the data set, top first.
        names: of the classes, left first.
        counts: int64 [parts, classes].
        unit: of the counts.
    """
    figure, axes = make_panel(0.75 + 0.34 * len(parts))
    rows = np.arange(len(parts))
    left = np.zeros(len(parts))
    for name, column, colour in zip(names, counts.T, CATEGORIES, strict=False):
        bars = axes.barh(rows, column, left=left, height=0.68, color=colour, label=name, edgecolor="white")
        texts = [str(value) if value > 0.06 * counts.sum(axis=1).max() else "" for value in column]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=8)
        left += column
    axes.set_yticks(rows, parts, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    draw_grid(axes, "x")
    draw_names_of_bars(axes, names, CATEGORIES)
    return figure


@apply_style
def draw_learning_curves(
    curves: Sequence[Curve], changes: Sequence[tuple[float, str]], floor: float | None, y: str
) -> Figure:
    """Draw the report's learning curves, one for each network.

    Args:
        curves: x are epochs from 1.
        changes: epochs after which something changes, and its new value.
        floor: the lowest value that can be reached; ``None`` if it is not known.
        y: label of the axis.
    """
    figure, axes = make_panel(3.0)
    for curve in curves:
        axes.plot(curve.x, curve.y, curve.dashes, color=curve.colour, marker="o", markersize=2.6)
    ends = [float(curve.y[-1]) for curve in curves]
    top = max(float(curve.y.max()) for curve in curves)
    bottom = min(ends) if floor is None else floor
    longest = max(float(curve.x[-1]) for curve in curves)
    for curve, place in zip(curves, spread_labels(ends, (top - bottom) * 0.06), strict=True):
        axes.annotate(
            curve.name,
            (curve.x[-1], curve.y[-1]),
            (longest * 1.03, place),
            color=curve.colour,
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7},
            annotation_clip=False,
        )
    for epoch, what in changes:
        axes.axvline(epoch + 0.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(epoch + 0.5, 1.0, what, color=MUTED, fontsize=8, ha="center", va="bottom", transform=_x_data(axes))
    if floor is not None:
        axes.axhline(floor, color=MUTED, linewidth=0.8, linestyle="--")
        axes.text(
            0.99,
            floor,
            "lowest possible with these targets ",
            color=MUTED,
            fontsize=8,
            va="bottom",
            ha="right",
            transform=axes.get_yaxis_transform(),
        )
        axes.set_ylim(bottom=floor - 0.06 * (top - floor))
    axes.set_xlim(0.6, longest * 1.22)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(y)
    draw_grid(axes, "y")
    return figure


def _x_data(axes: Axes) -> Any:
    return axes.get_xaxis_transform()


def _lines(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.18, linewidth=0)
        axes.plot(curve.x, curve.y, curve.dashes, color=curve.colour, label=curve.name)


def _zoomed(figure: Figure, axes: Axes, curves: Sequence[Curve], place: Any, x: Any, y: Any) -> Axes:
    inset = axes.inset_axes(place, xlim=x, ylim=y)
    _lines(inset, curves)
    inset.tick_params(labelsize=7)
    draw_grid(inset)
    for side in ("top", "right"):
        inset.spines[side].set_visible(True)
    axes.indicate_inset_zoom(inset, edgecolor=MUTED)
    return inset


def _key(axes: Axes, curves: Sequence[Curve], x: float, y: float) -> None:
    for row, curve in enumerate(curves):
        axes.text(x, y - 0.065 * row, curve.name, color=curve.colour, fontsize=8, transform=axes.transAxes, ha="right")


@apply_style
def draw_roc_curves(curves: Sequence[Curve], point: tuple[float, float] | None = None) -> Figure:
    """Draw the report's ROC curves, with the upper left corner enlarged.

    Args:
        curves: x = 1 - specificity, y = sensitivity.
        point: the operating point; ``None``: none is drawn.
    """
    figure, axes = make_panel(4.4)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    _lines(axes, curves)
    inset = _zoomed(figure, axes, curves, (0.4, 0.29, 0.57, 0.53), (-0.005, 0.25), (0.75, 1.005))
    if point is not None:
        inset.plot(*point, "o", color=INK, markersize=5)
        inset.annotate(
            "operating point",
            point,
            (14, -26),
            textcoords="offset points",
            fontsize=7.5,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6},
        )
    _key(axes, curves, 0.98, 0.02 + 0.065 * (len(curves) - 1))
    axes.set(
        xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="1 \N{MINUS SIGN} specificity", ylabel="sensitivity", aspect="equal"
    )
    draw_grid(axes)
    return figure


@apply_style
def draw_precision_recall_curves(curves: Sequence[Curve], prevalence: float) -> Figure:
    """Draw the report's precision-recall curves, with a corner enlarged.

    Args:
        curves: x = recall (sensitivity), y = precision (positive predictive value).
        prevalence: share of images with the finding, the precision of flagging every image.
    """
    figure, axes = make_panel(4.4)
    axes.axhline(prevalence, color=MUTED, linewidth=0.9, linestyle=":")
    above = prevalence < 0.9
    axes.text(
        0.01,
        prevalence + (0.012 if above else -0.012),
        f"flagging every image: {prevalence:.2f}",
        color=MUTED,
        fontsize=8,
        va="bottom" if above else "top",
    )
    _lines(axes, curves)
    if prevalence > 0.55:
        place, key = (0.09, 0.27, 0.57, 0.41), 0.02 + 0.065 * (len(curves) - 1)
    else:
        place, key = (0.09, 0.38, 0.57, 0.44), 0.3
    inset_low = min(float(curve.y[(curve.x >= 0.8) & (curve.x <= 0.99)].min()) for curve in curves) - 0.02
    _zoomed(figure, axes, curves, place, (0.8, 1.003), (max(0.0, inset_low), 1.002))
    _key(axes, curves, 0.98, key)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall (sensitivity)", ylabel="precision (predictive value)")
    axes.set_aspect("equal")
    draw_grid(axes)
    return figure


@apply_style
def draw_confusion_matrix(counts: npt.NDArray[np.int64], present: str, absent: str) -> Figure:
    """Draw the report's confusion matrix.

    Args:
        counts: int64 [2, 2], rows = label (absent, present), columns = answer (below, at or above the threshold).
        present: name of the label with the finding.
        absent: name of the label without it.
    """
    figure, axes = make_panel(2.9)
    right = np.eye(2, dtype=bool)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    meaning = (("not called", "called in vain"), ("missed", "found"))
    for row in (0, 1):
        for column in (0, 1):
            colour = NETWORK if right[row, column] else PRESENT
            axes.fill_between(
                [column, column + 1],
                row,
                row + 1,
                color=colour,
                alpha=0.08 + 0.5 * float(shares[row, column]),
                edgecolor="white",
                linewidth=3,
            )
            axes.text(column + 0.5, row + 0.42, f"{counts[row, column]}", ha="center", va="center", fontsize=17)
            text = f"{meaning[row][column]}, {shares[row, column]:.1%}"
            axes.text(column + 0.5, row + 0.76, text, ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, 2), ylim=(2, 0), xlabel="the network's answer", ylabel="label of the image")
    axes.set_xticks([0.5, 1.5], ["below the threshold", "at or above it"], color=INK)
    axes.set_yticks(
        [0.5, 1.5], [f"{absent}\n{counts[0].sum()} images", f"{present}\n{counts[1].sum()} images"], color=INK
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@apply_style
def draw_reliability_diagram(predicted: Floats, observed: Floats, counts: npt.NDArray[np.int64], note: str) -> Figure:
    """Draw a reliability diagram of the report, with bins of equal weight.

    Args:
        predicted: float64 [bins], mean probability.
        observed: float64 [bins], share with the finding.
        counts: int64 [bins], number of images in a bin; the area of its dot.
        note: printed into the panel.
    """
    figure, axes = make_panel(4.4)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
    axes.text(0.60, 0.565, "means what it says", color=MUTED, fontsize=8, rotation=45, rotation_mode="anchor")
    axes.plot(predicted, observed, "-", color=NETWORK, linewidth=1, alpha=0.5)
    axes.scatter(predicted, observed, s=10 + 140 * counts / counts.max(), color=NETWORK, alpha=0.75, linewidth=0)
    axes.text(0.03, 0.97, note, fontsize=8.5, va="top", transform=axes.transAxes, linespacing=1.5)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set(xlabel="probability, mean of the bin", ylabel="share of images with the finding")
    draw_grid(axes)
    return figure


@apply_style
def draw_probability_histogram(
    probability: Floats, labels: npt.NDArray[np.int64], names: tuple[str, str], band: tuple[float, float, float]
) -> Figure:
    """Draw the report's histogram of probabilities by label.

    Images without the finding point down; counts are on a root scale, so that small ones show.

    Args:
        probability: float64 [images].
        labels: int64 [images] in {0, 1}.
        names: of the labels, absent first.
        band: lower edge of ``uncertain``, threshold, upper edge.
    """
    figure, axes = make_panel(3.2)
    edges = np.linspace(0, 1, 26)
    counts = [np.histogram(probability[labels == label], edges)[0] for label in (0, 1)]
    for label, sign, colour in ((1, 1, PRESENT), (0, -1, ABSENT)):
        axes.bar(edges[:-1], sign * np.sqrt(counts[label]), width=0.036, align="edge", color=colour, label=names[label])
        axes.text(
            0.5 if abs(band[1] - 0.5) > 0.2 else 0.5 - 0.25 * sign,
            0.93 if sign > 0 else 0.07,
            names[label],
            color=colour,
            ha="center",
            va="center",
            fontsize=8.5,
            transform=axes.transAxes,
        )
    low, threshold, high = band
    axes.axvspan(low, high, color=MUTED, alpha=0.16, linewidth=0)
    axes.axvline(threshold, color=INK, linewidth=1)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.text(
        threshold,
        1.01,
        f"threshold {threshold:.2f}, band {low:.2f} to {high:.2f}",
        fontsize=8,
        va="bottom",
        ha="center" if 0.3 < threshold < 0.7 else "left" if threshold <= 0.3 else "right",
        transform=_x_data(axes),
    )
    most = max(1, *(int(count.max()) for count in counts))
    ticks = [tick for tick in (10, 100, 500, 1000, 2000, 5000, 10000) if tick <= most * 1.2] or [most]
    places = [*(-np.sqrt(ticks[::-1])), 0, *np.sqrt(ticks)]
    axes.set_yticks(places, [*map(str, ticks[::-1]), "0", *map(str, ticks)])
    axes.set(xlim=(0, 1), xlabel="probability", ylabel="images (root scale)")
    return figure


@apply_style
def draw_dots(names: Sequence[str], curves: Sequence[Curve], x: str, limits: tuple[float, float]) -> Figure:
    """Draw the report's values with intervals, one row for each name.

    Args:
        names: of the rows, top first.
        curves: of each, ``x`` is the value of every row (NaN = none), ``low`` and ``high`` its interval.
        x: label of the axis.
        limits: of the axis; a value below is drawn at its edge as an arrow.
    """
    figure, axes = make_panel(0.9 + 0.3 * len(names))
    rows = np.arange(len(names), dtype=np.float64)
    for index, curve in enumerate(curves):
        at = rows + (index - (len(curves) - 1) / 2) * 0.2
        if curve.low is not None and curve.high is not None:
            axes.hlines(at, np.maximum(curve.low, limits[0]), curve.high, color=curve.colour, alpha=0.5, linewidth=2)
        inside = ~(curve.x < limits[0])
        axes.plot(curve.x[inside], at[inside], "o", color=curve.colour, markersize=4.5, label=curve.name)
        axes.plot(np.full((~inside).sum(), limits[0]), at[~inside], "<", color=curve.colour, markersize=4.5)
    axes.set_yticks(rows, names, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(limits[0] - 0.01 * (limits[1] - limits[0]), limits[1])
    axes.set_xlabel(x)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    draw_grid(axes, "x")
    if len(curves) > 1:
        draw_names_of_bars(axes, [curve.name for curve in curves], [curve.colour for curve in curves])
    return figure


@apply_style
def draw_size_against_speed(
    sides_px: Sequence[int], time_ms: Floats, quality: Floats, served_px: int, y: str
) -> Figure:
    """Draw the report's accuracy against time, a dot for each input size.

    Args:
        sides_px: of the input.
        time_ms: float64 [sides], for one image.
        quality: float64 [sides].
        served_px: the side that the recipe serves, filled.
        y: label of the axis of ``quality``.
    """
    figure, axes = make_panel(3.1)
    axes.plot(time_ms, quality, "-", color=NETWORK, linewidth=1)
    for side, ms, value in zip(sides_px, time_ms, quality, strict=True):
        axes.plot(
            ms, value, "o", color=NETWORK, markersize=7, markerfacecolor=NETWORK if side == served_px else "white"
        )
        text = f"{side} px\nserves" if side == served_px else f"{side} px"
        axes.annotate(text, (ms, value), (5, -5), textcoords="offset points", fontsize=8, va="top")
    axes.margins(x=0.14, y=0.22)
    axes.set_xlim(left=0)
    axes.set(xlabel="ms an image, one thread, LiteRT", ylabel=y)
    axes.yaxis.set_major_formatter("{x:.3f}")
    draw_grid(axes)
    return figure


@apply_style
def draw_bars(names: Sequence[str], values: Floats, x: str, texts: Sequence[str]) -> Figure:
    """Draw the report's bars with their texts, one for each name.

    Args:
        names: of the bars, top first.
        values: float64 [names], lengths of the bars.
        x: label of the axis.
        texts: at the ends of the bars.
    """
    figure, axes = make_panel(0.7 + 0.27 * len(names))
    rows = np.arange(len(names))
    drawn = axes.barh(rows, values, height=0.62, color=NETWORK)
    axes.bar_label(drawn, list(texts), padding=4, fontsize=8)
    axes.set_yticks(rows, names, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_xlabel(x)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    draw_grid(axes, "x")
    return figure

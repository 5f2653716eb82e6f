"""Figures draw the arrays they are given, and say what they show."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from preread_training.report import figures
from preread_training.report.figure_style import ABSENT, NETWORK, PRESENT, Curve, encode_png, encode_svg, spread_labels


def _panel(figure: Figure) -> Axes:
    return figure.axes[0]


def _texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def curve() -> Curve:
    x = np.linspace(0, 1, 11)
    return Curve("network: AUC 0.9", x, np.sqrt(x), np.sqrt(x) - 0.05, np.sqrt(x) + 0.02)


def test_bars_of_the_class_balance_stand_end_to_end() -> None:
    counts = np.array([[10, 20, 5], [12, 18, 7]])
    axes = _panel(figures.draw_class_balance(["fold 0", "fold 1"], ["a", "b", "c"], counts, "films"))
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers]).T
    starts = np.array([[bar.get_x() for bar in bars] for bars in axes.containers]).T
    np.testing.assert_array_equal(widths, counts)
    np.testing.assert_array_equal(starts, np.cumsum(counts, axis=1) - counts)
    assert axes.get_xlabel() == "films"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fold 0", "fold 1"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]


def test_learning_curves_show_every_loss_and_name_each_line() -> None:
    epochs = np.arange(1.0, 5.0)
    curves = [Curve(f"fold {fold}", epochs, 1 / epochs + fold * 0.001) for fold in range(3)]
    axes = _panel(figures.draw_learning_curves(curves, [(3.0, "224 px")], 0.1, "loss"))
    for line, wanted in zip(axes.lines, curves, strict=False):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([wanted.x, wanted.y]))
    assert {"fold 0", "fold 1", "fold 2", "224 px"} <= set(_texts(axes))
    abscissas = [np.asarray(line.get_xdata()) for line in axes.lines]
    assert [x[0] for x in abscissas if len(set(x)) == 1] == [3.5]
    assert any(text.startswith("lowest possible") for text in _texts(axes))
    assert axes.get_ylim()[0] < 0.1


def test_labels_keep_their_order_and_their_distance() -> None:
    placed = spread_labels([0.50, 0.10, 0.49, 0.51], 0.1)
    assert sorted(range(4), key=lambda index: placed[index]) == [1, 2, 0, 3]
    assert min(np.diff(sorted(placed))) == pytest.approx(0.1)
    assert spread_labels([1.0, 2.0], 0.5) == [1.0, 2.0]


def test_roc_draws_line_band_and_operating_point(curve: Curve) -> None:
    figure = figures.draw_roc_curves([curve], (0.05, 0.93))
    axes = _panel(figure)
    assert any(np.array_equal(line.get_xydata(), np.column_stack([curve.x, curve.y])) for line in axes.lines)
    outline = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert outline[:, 1].max() == pytest.approx(float(curve.high.max()) if curve.high is not None else 0)
    assert curve.name in _texts(axes)
    (inset,) = axes.child_axes
    assert any(list(np.asarray(line.get_xydata())[0]) == [0.05, 0.93] for line in inset.lines)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("1 \N{MINUS SIGN} specificity", "sensitivity")


@pytest.mark.parametrize("prevalence", [0.05, 0.74, 0.97])
def test_precision_recall_says_what_flagging_every_film_gives(curve: Curve, prevalence: float) -> None:
    axes = _panel(figures.draw_precision_recall_curves([curve], prevalence))
    assert f"flagging every image: {prevalence:.2f}" in _texts(axes)
    assert list(np.asarray(axes.lines[0].get_ydata())) == [prevalence, prevalence]


def test_confusion_shows_the_counts_where_they_belong() -> None:
    axes = _panel(figures.draw_confusion_matrix(np.array([[90, 10], [3, 197]]), "with pneumonia", "without pneumonia"))
    where = {text.get_text(): text.get_position() for text in axes.texts}
    assert where["90"][0] < 1 < where["10"][0]  # columns: below the threshold, at or above it
    assert where["90"][1] < 1 < where["3"][1]  # rows: without, with
    assert "missed, 1.5%" in where
    assert "called in vain, 10.0%" in where
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "with pneumonia\n200 images"


def test_reliability_draws_bins_by_their_films() -> None:
    predicted, observed = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.4, 1.0])
    axes = _panel(figures.draw_reliability_diagram(predicted, observed, np.array([10, 20, 40]), "ECE 0.07"))
    (dots,) = axes.collections
    assert isinstance(dots, PathCollection)
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), np.column_stack([predicted, observed]))
    sizes = dots.get_sizes()
    assert sizes[0] < sizes[1] < sizes[2]
    assert "ECE 0.07" in _texts(axes)


def test_the_histogram_puts_every_film_on_its_side() -> None:
    probability = np.array([0.01, 0.02, 0.03, 0.99, 0.98])
    labels = np.array([0, 0, 0, 1, 0])
    axes = _panel(figures.draw_probability_histogram(probability, labels, ("without", "with"), (0.3, 0.4, 0.6)))
    heights = {side: [bar.get_height() for bars in axes.containers for bar in bars] for side in ("all",)}["all"]
    assert sum(height**2 for height in heights if height > 0) == pytest.approx(1)
    assert sum(height**2 for height in heights if height < 0) == pytest.approx(4)
    assert "threshold 0.40, band 0.30 to 0.60" in _texts(axes)


def test_dots_leave_out_what_is_undefined_and_mark_what_lies_outside() -> None:
    values = np.array([0.9, np.nan, 0.2])
    rows = [Curve("sensitivity", values, values, values - 0.05, values + 0.05, PRESENT)]
    axes = _panel(figures.draw_dots(["a", "b", "c"], rows, "share", (0.5, 1.0)))
    inside, below = axes.lines
    assert np.array_equal(inside.get_xdata(), [0.9, np.nan], equal_nan=True)
    assert list(np.asarray(below.get_xdata())) == [0.5]
    assert below.get_marker() == "<"


def test_the_size_that_serves_is_told_apart() -> None:
    axes = _panel(figures.draw_size_against_speed([96, 192], np.array([3.0, 9.0]), np.array([0.98, 0.99]), 192, "AUC"))
    assert "192 px\nserves" in _texts(axes)
    assert "96 px" in _texts(axes)
    filled = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert filled == ["white", NETWORK]


def test_bars_carry_their_texts() -> None:
    axes = _panel(figures.draw_bars(["A1", "A5"], np.array([1.0, 12.5]), "seconds an epoch", ["1 s", "12.5 s"]))
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [1.0, 12.5]
    assert {"1 s", "12.5 s"} <= set(_texts(axes))


def test_a_figure_is_the_same_bytes_each_time_and_holds_no_address(curve: Curve) -> None:
    first, second = (encode_svg(figures.draw_roc_curves([curve])) for _ in range(2))
    assert first == second
    assert b"dc:date" not in first
    picture = Image.open(io.BytesIO(encode_png(figures.draw_roc_curves([curve]))))
    assert picture.width > 700


def test_the_style_is_the_module_s_own(curve: Curve) -> None:
    with mpl.rc_context({"axes.spines.right": True, "font.size": 30}):
        axes = _panel(figures.draw_roc_curves([curve]))
    assert not axes.spines["right"].get_visible()
    assert axes.xaxis.label.get_fontsize() == 9
    assert ABSENT != PRESENT

"""Runs compared by four measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread_training.data.dataset import Data, LabelledImage
from preread_training.data.phantoms import draw_chest
from preread_training.stats.bootstrap import Measure
from preread_training.stats.metrics import auc

if TYPE_CHECKING:
    from preread_training.fit.candidates import Candidate

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")


IMAGES = 60


@pytest.fixture(scope="module")
def data() -> Data:
    """Images of 40 patients in two folds; every third normal is framed like an image with the finding."""
    labels = np.tile([0, 1], IMAGES // 2)
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (IMAGES, 28, 28)).astype(np.uint8)
    patients = np.array([f"{label}-{row % 20}" for row, label in enumerate(labels)])
    conflict = (labels == 0) & (np.arange(IMAGES) % 3 == 0)
    films = [
        LabelledImage(Path(str(row)), ("x",) if label else (), patients[row], True) for row, label in enumerate(labels)
    ]
    folds = np.arange(IMAGES) // 2 % 2
    return Data(
        films, pictures, list(map(str, range(IMAGES))), ("x",), labels[:, None], patients, folds, conflict[:, None]
    )


def candidate(
    data: Data, name: str, strength: float, rows: slice = slice(None), *, disturbed: bool = True
) -> Candidate:
    """Logits that rise with the label by so much over noise that is the same for all."""
    from preread_training.fit.candidates import Candidate

    noise = np.random.default_rng(1).normal(size=IMAGES)
    logits = strength * data.labels[:, 0] + noise
    kept = np.arange(IMAGES)[rows]
    return Candidate(name, kept, logits[rows], logits[rows] if disturbed else None, 2)


def test_each_measure_is_the_auc_of_its_images(data: Data) -> None:
    from preread_training.fit.candidates import DISTURBED, HARD_NEGATIVES, OUT_OF_FOLD, SHARPNESS, compare_candidates

    one = candidate(data, "one", 1.0)
    found = compare_candidates([one], data, draws=20)["runs"]["one"]
    present = data.labels[:, 0] == 1
    for name, absent in (
        (OUT_OF_FOLD, ~present),
        (HARD_NEGATIVES, data.conflict[:, 0] & ~present),
        (SHARPNESS, data.misled_by_sharpness[:, 0] & ~present),
        (DISTURBED, ~present),
    ):
        kept = present | absent
        if absent.any():
            assert found["auc"][name]["value"] == pytest.approx(auc(one.logits[kept], data.labels[kept, 0]))
        else:
            assert found["auc"][name] is None
    assert found["smallest"] == min(of["value"] for of in found["auc"].values() if of)
    assert "difference" not in found


def test_a_stronger_run_is_better_and_a_weaker_one_worse(data: Data) -> None:
    from preread_training.fit.candidates import compare_candidates

    strong, weak = candidate(data, "strong", 9.0), candidate(data, "weak", 0.0)
    assert compare_candidates([weak, strong], data, draws=200)["runs"]["strong"]["verdict"] == "better"
    assert compare_candidates([strong, weak], data, draws=200)["runs"]["weak"]["verdict"] == "worse"


def test_a_run_equals_itself(data: Data) -> None:
    from preread_training.fit.candidates import compare_candidates

    found = compare_candidates([candidate(data, "a", 1.0), candidate(data, "b", 1.0)], data, draws=50)["runs"]["b"]
    assert found["verdict"] == "undecided"
    assert all(of["value"] == 0 for of in found["difference"].values() if of)


def test_only_images_that_both_held_out_count(data: Data) -> None:
    from preread_training.fit.candidates import compare_candidates

    first = candidate(data, "all", 1.0)
    second = candidate(data, "half", 1.0, slice(0, 30))
    found = compare_candidates([first, second], data, draws=20)
    assert found["images"] == 30
    assert found["runs"]["all"]["auc"] == found["runs"]["half"]["auc"]


def test_runs_without_a_fold_in_common_are_refused(data: Data) -> None:
    from preread_training.fit.candidates import compare_candidates

    with pytest.raises(UsageError, match="no finished fold in common"):
        compare_candidates([candidate(data, "a", 1.0, slice(0, 30)), candidate(data, "b", 1.0, slice(30, 60))], data)


def test_a_reference_system_has_no_disturbed_images_and_is_never_better(data: Data) -> None:
    from preread_training.fit.candidates import DISTURBED, compare_candidates

    found = compare_candidates(
        [candidate(data, "a", 0.0), candidate(data, "b", 9.0, disturbed=False)], data, draws=200
    )["runs"]["b"]
    assert found["auc"][DISTURBED] is None
    assert found["verdict"] == "undecided"


@given(
    st.lists(
        st.none() | st.tuples(st.floats(-1, 1), st.floats(0, 1)).map(lambda x: Measure(x[0], x[0] - x[1], x[0] + x[1])),
        min_size=4,
        max_size=4,
    )
)
@settings(max_examples=200)
def test_what_gains_here_and_loses_there_is_not_better(apart: list[Measure | None]) -> None:
    from preread_training.fit.candidates import MEASURES, decide_verdict

    said = decide_verdict(dict(zip(MEASURES, apart, strict=True)))
    gained = any(one is not None and one.low > 0 for one in apart)
    lost = any(one is not None and one.high < 0 for one in apart)
    assert (said == "better") == (gained and not lost and None not in apart)
    assert (said == "worse") == (lost and not gained)


def test_the_draw_is_the_same_each_time_and_changes_the_images() -> None:
    from preread_training.fit.candidates import disturb_data_set

    pictures = np.stack([draw_chest(seed, rows=64, columns=64) for seed in range(5)])
    first, second = disturb_data_set(pictures), disturb_data_set(pictures)
    assert first.shape == pictures.shape
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert all((a != b).mean() > 0.5 for a, b in zip(first, pictures, strict=True))

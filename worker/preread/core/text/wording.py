"""Sentences for results, probabilities, caveats and durations.

No result is called normal, and no probability stands without its prevalence.
"""

from __future__ import annotations

from collections.abc import Iterable

from preread.core.text.confusables import IdentifierWarning
from preread.core.types import CAVEAT_TEXT, Answer, Caveat, Finding, PredictiveValues

NO_DEVICE = (
    "Preread is not a medical device: its results are for research and are no diagnosis. A doctor reads every image."
)
_ANSWER = {
    Answer.FLAGGED: "{finding} flagged",
    Answer.UNCERTAIN: "{finding} uncertain",
    Answer.NOT_FLAGGED: "{finding} not flagged; this excludes no disease",
}


IDENTIFIER_WARNING_TEXT: dict[IdentifierWarning, str] = {
    IdentifierWarning.INVISIBLE: "contains invisible characters",
    IdentifierWarning.MIXED_SCRIPTS: "mixed scripts",
    IdentifierWarning.LOOKALIKE: "letters that look like others",
}


def format_answer(answer: Answer, finding: str) -> str:
    """Return the result for a finding in words.

    For example ``pneumonia not flagged; this excludes no disease``.
    """
    return _ANSWER[answer].format(finding=finding)


def format_withdrawn(result: str, reason: str | None) -> str:
    """Return a result in words, after a note that its bundle was withdrawn.

    Args:
        result: the result in words.
        reason: reason for the withdrawal; ``None`` returns ``result`` unchanged.
    """
    return result if reason is None else f"WITHDRAWN, do not rely on it ({reason}): {result}"


def format_probability(probability: float, prevalence: float) -> str:
    """Return a probability with its prevalence: ``87 % at prevalence 25 %``.

    Args:
        probability: in [0, 1].
        prevalence: share of images with the finding for which it is calibrated, in (0, 1).
    """
    return f"{format_percent(probability)} at prevalence {format_percent(prevalence)}"


def format_percent(share: float, below: str = "below", above: str = "above") -> str:
    """Return a share in per cent, never rounded to 0 % or 100 %.

    Args:
        share: in [0, 1].
        below: word for "less than".
        above: word for "more than".
    """
    value = share * 100
    if 0 < value < 0.1:
        return f"{below} 0.1 %"
    if 99.9 < value < 100:
        return f"{above} 99.9 %"
    return f"{value:.0f} %" if 10 <= value <= 90 or value in (0, 100) else f"{value:.1f} %"


def format_result(answer: Answer, finding: str, probability: float, prevalence: float) -> str:
    """Return a result with its probability and prevalence.

    For example ``pneumonia uncertain (5.1 % at prevalence 50 %)``.
    """
    return f"{format_answer(answer, finding)} ({format_probability(probability, prevalence)})"


def format_finding(finding: Finding) -> str:
    """Return a finding in words, with its probability and prevalence."""
    return format_result(finding.answer, finding.finding, finding.probability, finding.prevalence)


def format_predictive_values(values: Iterable[PredictiveValues]) -> str:
    """Return PPV and NPV in words, at each of their prevalences.

    Args:
        values: at least one.
    """
    stated = tuple(values)

    def series(shares: Iterable[float]) -> str:
        return " / ".join(format_percent(share).removesuffix(" %") for share in shares) + " %"

    return (
        f"at prevalences of {' / '.join(f'{value.prevalence * 100:g}' for value in stated)} %, "
        f"{series(value.ppv for value in stated)} of the flagged images have it (PPV), "
        f"and {series(value.npv for value in stated)} of the images not flagged do not (NPV)"
    )


def predictive_value_notes(results: Iterable[tuple[str, Finding]]) -> list[str]:
    """Return a note on PPV and NPV for each bundle and finding, sorted.

    Args:
        results: bundle (``name/version``) and finding; repetitions are dropped.
    """
    distinct = sorted(
        {(result.finding, bundle, result.predictive_values) for bundle, result in results}, key=lambda note: note[:2]
    )
    return [
        f"{finding} ({bundle}): {format_predictive_values(values) if values else 'this bundle states no PPV and NPV'}"
        for finding, bundle, values in distinct
    ]


def caveat_codes(caveats: Iterable[Caveat]) -> str:
    """Return the codes of caveats, separated by commas."""
    return ", ".join(caveat.value for caveat in caveats)


def caveat_notes(caveats: Iterable[Caveat]) -> list[str]:
    """Return a note on each distinct caveat: its code and meaning, sorted."""
    return [f"{caveat.value}: {CAVEAT_TEXT[caveat]}" for caveat in sorted(set(caveats))]


def file_count(count: int) -> str:
    """Return a number of files in words: ``1 file``, ``3 files``."""
    return "1 file" if count == 1 else f"{count} files"


def format_duration(seconds: float | None) -> str:
    """Return a duration in words: ``95 s``, ``12 min``, ``3.5 h``, ``2 days``.

    Args:
        seconds: duration; ``None`` returns ``ever``.
    """
    if seconds is None:
        return "ever"
    for unit_s, unit, from_s in ((86_400, "days", 172_800), (3_600, "h", 7_200), (60, "min", 120)):
        if seconds >= from_s:
            return f"{seconds / unit_s:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.0f} s"

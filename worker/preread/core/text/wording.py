"""How answers are said to people. There is no word for health here, and no probability without its prevalence."""

from __future__ import annotations

from collections.abc import Iterable

from preread.core.text.confusables import IdentifierWarning
from preread.core.types import CAVEAT_TEXT, Answer, Caveat, Finding, PredictiveValues

NO_DEVICE = "Preread is no medical device: a first read for research, no diagnosis. A doctor reads every film."
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
    """Say an answer in words, e.g. ``pneumonia not flagged; this excludes no disease``."""
    return _ANSWER[answer].format(finding=finding)


def format_withdrawn(said: str, withdrawn: str | None) -> str:
    """Say before a result that its bundle was withdrawn, and why; as it is where it was not."""
    return said if withdrawn is None else f"WITHDRAWN, do not rely on it ({withdrawn}): {said}"


def format_probability(probability: float, prevalence: float) -> str:
    """Say a probability with the prevalence that it holds for, e.g. ``87 % at prevalence 25 %``."""
    return f"{format_percent(probability)} at prevalence {format_percent(prevalence)}"


def format_percent(share: float, below: str = "below", above: str = "above") -> str:
    """Say a share in [0, 1] in per cent; never as a certainty that nobody has."""
    value = share * 100
    if 0 < value < 0.1:
        return f"{below} 0.1 %"
    if 99.9 < value < 100:
        return f"{above} 99.9 %"
    return f"{value:.0f} %" if 10 <= value <= 90 or value in (0, 100) else f"{value:.1f} %"


def format_result(answer: Answer, finding: str, probability: float, prevalence: float) -> str:
    """Say an answer with its probability, e.g. ``pneumonia uncertain (5.1 % at prevalence 50 %)``."""
    return f"{format_answer(answer, finding)} ({format_probability(probability, prevalence)})"


def format_finding(finding: Finding) -> str:
    """Say a finding with its probability."""
    return format_result(finding.answer, finding.finding, finding.probability, finding.prevalence)


def format_predictive_values(values: Iterable[PredictiveValues]) -> str:
    """Say how far answers can be relied on, e.g. ``where 5 / 60 % of films show it: of those flagged 30 / 92 % do``."""
    at = tuple(values)

    def series(shares: Iterable[float]) -> str:
        return " / ".join(format_percent(share).removesuffix(" %") for share in shares) + " %"

    return (
        f"where {' / '.join(f'{one.prevalence * 100:g}' for one in at)} % of films show it: "
        f"of those flagged {series(one.ppv for one in at)} do (PPV), "
        f"of those not flagged {series(one.npv for one in at)} do not (NPV)"
    )


def predictive_value_notes(answered: Iterable[tuple[str, Finding]]) -> list[str]:
    """Say once for each bundle and finding how far its answers can be relied on; bundles that state nothing say so.

    Args:
        answered: the bundle (``name/version``) and what it found.
    """
    distinct = sorted({(one.finding, bundle, one.predictive_values) for bundle, one in answered}, key=lambda it: it[:2])
    return [
        f"{finding} ({bundle}): {format_predictive_values(values) if values else 'this bundle states no PPV and NPV'}"
        for finding, bundle, values in distinct
    ]


def caveat_codes(caveats: Iterable[Caveat]) -> str:
    """Name caveats by their codes, for a cell of a table that ``caveat_notes`` stands below."""
    return ", ".join(caveat.value for caveat in caveats)


def caveat_notes(caveats: Iterable[Caveat]) -> list[str]:
    """Say in words what each of these caveats means, once."""
    return [f"{caveat.value}: {CAVEAT_TEXT[caveat]}" for caveat in sorted(set(caveats))]


def image_count(count: int) -> str:
    """Say how many films."""
    return "1 film" if count == 1 else f"{count} films"


def format_duration(seconds: float | None) -> str:
    """Say how long, e.g. ``95 s``, ``12 min``, ``3.5 h``."""
    if seconds is None:
        return "ever"
    for unit_s, unit, from_s in ((86_400, "days", 172_800), (3_600, "h", 7_200), (60, "min", 120)):
        if seconds >= from_s:
            return f"{seconds / unit_s:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.0f} s"

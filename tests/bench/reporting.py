"""The figures of the benchmark as tables, and whether they fell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BEGIN, _END = "<!-- {}: begin; what make bench ARGS=--write measured -->", "<!-- {}: end -->"
# The share of its committed value below which a ratio counts as fallen; single runs differ by some 5 %.
FALLEN = 0.85
_SETTLED_MS = 60.0
_SIZES = (1, 2, 4, 8)


def page(found: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    machine = found["machine"]
    about = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; Python {machine['python']}; "
        + ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    )
    kinds = found["kinds"]
    parts = [about, *(table(kinds) for table in (_rates, _costs, _delays, sizing, _flatness, _stages, _parent))]
    return "\n\n".join([*parts, f"From start to ready: {found['starts_in_s']} s (best of three; goal 2.0)."]) + "\n"


def inserted(text: str, part: str, tables: str) -> str:
    """The document with a measured part replaced."""
    begin, end = _BEGIN.format(part), _END.format(part)
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"the document lacks the lines {begin} and {end}")
    return f"{head}{begin}\n\n{tables}\n{end}{tail}"


def ratios(of: dict[str, Any]) -> dict[str, float]:
    """What is compared between runs and machines."""
    rate = {way: of[way]["films_per_s"] for way in ("floor", "sqlite", "postgres", "usual")}
    return {
        "SQLite to floor": rate["sqlite"] / rate["floor"],
        "Postgres to floor": rate["postgres"] / rate["floor"],
        "SQLite to usual way": rate["sqlite"] / rate["usual"],
        "floor to usual way": rate["floor"] / rate["usual"],
    }


def regressions(committed: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line for each ratio that fell by more than the tolerance."""
    lines = []
    for name, of in found["kinds"].items():
        before = ratios(committed["kinds"][name])
        for what, ratio in ratios(of).items():
            if ratio < FALLEN * before[what]:
                lines.append(f"{name}: {what} fell from {before[what]:.2f} to {ratio:.2f}")
    return lines


def _table(header: list[str], rows: Sequence[Sequence[object]]) -> str:
    lines: list[Sequence[object]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _rates(kinds: dict[str, Any]) -> str:
    header = ["images", "MB", "floor, images/s", "worker, SQLite", "Postgres", "usual way"]
    header += ["of floor: SQLite, Postgres (goal 0.90)", "times usual"]
    rows: list[list[object]] = []
    for name, of in kinds.items():
        found = ratios(of)
        both = f"{found['SQLite to floor']:.2f}, {found['Postgres to floor']:.2f}"
        rates = [of[way]["films_per_s"] for way in ("floor", "sqlite", "postgres", "usual")]
        rows.append([name, of["mb_a_film"], *rates, both, f"{found['SQLite to usual way']:.1f}"])
    return _table(header, rows)


def _costs(kinds: dict[str, Any]) -> str:
    header = ["images", "CPU ms an image: floor", "worker on SQLite (of it in the parent)", "on Postgres", "usual way"]
    header += ["peak MB: parent (goal 150)", "inference process (200)", "usual way"]
    rows: list[list[object]] = []
    for name, of in kinds.items():
        memory = of["sqlite"]["peak_mb"]
        slot = max(value for process, value in memory.items() if process != "parent")
        spent = [f"{of[way]['cpu_ms']} ({of[way]['parent_ms']})" for way in ("sqlite", "postgres")]
        usual = of["usual"]
        rows.append(
            [name, of["floor"]["cpu_ms"], *spent, usual["cpu_ms"], memory["parent"], slot, usual["peak_mb"]["process"]]
        )
    return _table(header, rows)


def _delays(kinds: dict[str, Any]) -> str:
    header = ["one image at a time, ms", "images", "floor, p95", "complete to committed, p50 / p95 / p99"]
    header += ["p95 above the floor (goal 60)", "closed to committed, p50 / p95 / p99"]
    rows: list[list[object]] = []
    for name, of in kinds.items():
        settled, closed = of["settled_to_committed_ms"], of["closed_to_committed_ms"]
        floor = of["floor_alone"]["film_ms"]["p95"]
        above = settled["p95"] - floor
        spreads = [" / ".join(f"{value:.0f}" for value in of.values()) for of in (settled, closed)]
        said = f"{above:.0f}" + ("" if above <= _SETTLED_MS else " (missed)")
        rows.append([name, of["few"], f"{floor:.0f}", spreads[0], said, spreads[1]])
    return _table(header, rows)


def sizing(kinds: dict[str, Any]) -> str:
    """Return the table for sizing. One core and all are measured; beyond that the parent limits, as one process."""
    header = ["images an hour", *(f"{cores} core{'s' if cores > 1 else ''}" for cores in _SIZES)]
    header += ["GB a million results: SQLite", "previews"]
    rows: list[list[object]] = []
    for name, of in kinds.items():
        worker = of["sqlite"]
        known = {1: of["one_core"]["films_per_s"], 2: worker["films_per_s"]}
        cells: list[object] = []
        for cores in _SIZES:
            serial = 1000 / worker["parent_ms"] if worker["parent_ms"] else float("inf")
            rate = known.get(cores) or min(worker["films_per_s"] * cores / 2, serial)
            cells.append(f"{round(3600 * rate, -2):,.0f}" + ("" if cores in known else " (computed)"))
        rows.append([name, *cells, f"{of['database_kb']:.1f}", f"{of['preview_kb']:.0f}"])
    return _table(header, rows)


def _flatness(kinds: dict[str, Any]) -> str:
    found: dict[str, dict[str, float]] = next(
        (of["parent_ms_with"] for of in kinds.values() if "parent_ms_with" in of), {}
    )
    known = list(dict.fromkeys(number for of in found.values() for number in of))
    header = ["the parent's CPU ms an image, by files in the ledger before", *(f"{int(number):,}" for number in known)]
    return _table(header, [[name, *(of[number] for number in known)] for name, of in found.items()])


def _stages(kinds: dict[str, Any]) -> str:
    names = list(dict.fromkeys(stage for of in kinds.values() for stage in of["stages_ms"]))
    rows: list[list[object]] = [
        [name, *(f"{of['stages_ms'][stage]:.1f}" if stage in of["stages_ms"] else "" for stage in names)]
        for name, of in kinds.items()
    ]
    return _table(["an inference process's CPU ms an image", *names], rows)


def _parent(kinds: dict[str, Any]) -> str:
    found: dict[str, float] = next((of["parent_ms"] for of in kinds.values() if "parent_ms" in of), {})
    rows: list[list[object]] = [[name, value] for name, value in found.items()]
    return _table(["the parent's main thread, profiled (which slows it down)", "CPU ms an image"], rows)

"""How fast the worker is, as ratios to what the same parts do without it and to what is usually built.

make bench                         all of it, some twenty minutes, on an idle machine
python -m tests.bench --share 0.1  a tenth of the films, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import ways
from tests.bench.films import Kind, kinds, written
from tests.conftest import PostgresServer

WITHIN_S = 1800.0
LIBRARIES = ("preread", "ai-edge-litert", "imagecodecs", "keras", "numpy", "pillow", "pydicom", "sqlalchemy")


def main() -> int:
    """Measure, print the tables, and keep them where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with chest_xray_224 and chest_xray_full; default: phantoms")
    parser.add_argument("--share", type=float, default=1.0, help="of the number of films, in (0, 1]")
    parser.add_argument("--out", type=Path, help="folder for bench.md and bench.json")
    parser.add_argument("--only", action="append", help="kinds whose name holds this text; may be repeated")
    asked = parser.parse_args()
    if not 0 < asked.share <= 1:
        parser.error("--share must lie in (0, 1]")
    chosen = [
        kind
        for kind in kinds(asked.data, asked.share)
        if not asked.only or any(part in kind.name for part in asked.only)
    ]
    if not chosen:
        parser.error("no kind of film has such a name")
    with tempfile.TemporaryDirectory(prefix="preread-bench-") as name, _postgres(Path(name)) as new_database:
        folder = Path(name)
        measured = {kind.name: _measure(kind, folder, new_database) for kind in chosen}
        starts = [folder / f"start-{turn}" for turn in range(3)]
        starts_s = min(ways.Worker(place, _sqlite(place.with_suffix(".db"))).starts_in_s() for place in starts)
    found = {"machine": _machine(), "starts_in_s": round(starts_s, 2), "kinds": measured}
    page = _page(found)
    print(page)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "bench.md").write_text(page, encoding="utf-8")
        (asked.out / "bench.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def _sqlite(file: Path) -> str:
    return f"sqlite:///{file}"


@contextmanager
def _postgres(folder: Path) -> Iterator[Any]:
    """Make a new, empty database on a real server; durable, unlike the suite's."""
    place = folder / "pg"
    place.mkdir()
    folder.chmod(0o755)  # the server may run as another user, who must reach it
    server = PostgresServer(place)
    try:
        yield lambda: server.url(server.create())
    finally:
        server.stop()


def _measure(kind: Kind, folder: Path, new_database: Any) -> dict[str, Any]:
    _say(f"{kind.name}: writing {kind.films} films")
    films = written(kind, folder / "films")
    few = films[: kind.few]
    _say("the floor, twice")
    floors = [ways.floor(films, ways.cores()) for _ in range(2)]
    floor = max(floors, key=lambda passed: passed.films_per_s)
    alone = ways.floor(few, 1)
    found: dict[str, Any] = {
        "films": kind.films,
        "few": kind.few,
        "floor": _numbers(floor),
        "floor_alone": _numbers(alone),
    }
    for name, url in (("sqlite", None), ("postgres", new_database())):
        place = folder / f"{name}-{len(list(folder.iterdir()))}"
        _say(f"the worker on {name}")
        worker = ways.Worker(place, url or _sqlite(folder / f"{place.name}.db"))
        found[name] = _numbers(worker.pass_all(films, WITHIN_S))
    place = folder / f"singly-{len(list(folder.iterdir()))}"
    _say("the worker, one film at a time")
    settled, closed = ways.Worker(place, _sqlite(folder / f"{place.name}.db")).pass_singly(few, WITHIN_S)
    found["settled_to_committed_ms"] = _spread(settled)
    found["closed_to_committed_ms"] = _spread(closed)
    _say("the usual way")
    found["usual"] = _numbers(ways.usual(few, folder / f"usual-{len(list(folder.iterdir()))}"))
    return found


def _spread(values: list[float]) -> dict[str, float]:
    passed = ways.Passed(0.0, values, 0.0, {})
    return {f"p{round(100 * share)}": round(passed.percentile_ms(share), 1) for share in (0.5, 0.95, 0.99)}


def _numbers(passed: ways.Passed) -> dict[str, Any]:
    return {
        "films_per_s": round(passed.films_per_s, 2),
        "cpu_ms": round(passed.cpu_ms, 1),
        "peak_mb": {name: round(value) for name, value in passed.peak_mb.items()},
        **({"film_ms": _spread(passed.film_ms)} if passed.film_ms else {}),
    }


def _machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": model,
        "cores": ways.cores(),
        "memory_gb": round(memory_kb / 1e6),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _page(found: dict[str, Any]) -> str:
    machine = found["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; Python {machine['python']}; "
        + ", ".join(f"{name} {number}" for name, number in machine["libraries"].items()),
        "",
        "| films | floor, films/s | worker, SQLite | Postgres | usual way | of floor: SQLite, Postgres | times usual |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, of in found["kinds"].items():
        rates = [of[way]["films_per_s"] for way in ("floor", "sqlite", "postgres", "usual")]
        floor, sqlite, postgres, usual = rates
        lines.append(
            f"| {name} | {floor} | {sqlite} | {postgres} | {usual} | {sqlite / floor:.2f}, {postgres / floor:.2f} "
            f"| {sqlite / usual:.1f} |"
        )
    header = (
        "| films | CPU ms a film: floor, worker, usual | floor alone, p95 ms | settled to committed, ms | closed to "
        "committed, ms (p50/p95/p99) | peak MB: parent, slots; usual |"
    )
    lines += ["", header, "| --- | --- | --- | --- | --- | --- |"]
    for name, of in found["kinds"].items():
        settled, closed = ("/".join(f"{value:g}" for value in of[key].values()) for key in (
            "settled_to_committed_ms", "closed_to_committed_ms"))  # fmt: skip
        memory = of["sqlite"]["peak_mb"]
        slots = [value for process, value in memory.items() if process != "parent"]
        lines.append(
            f"| {name} | {of['floor']['cpu_ms']}, {of['sqlite']['cpu_ms']}, {of['usual']['cpu_ms']} "
            f"| {of['floor_alone']['film_ms']['p95']} | {settled} | {closed} "
            f"| {memory['parent']}, {max(slots, default=0)}; {of['usual']['peak_mb']['process']} |"
        )
    lines += ["", f"From start to ready: {found['starts_in_s']} s (best of three).", ""]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""How fast the worker is, as ratios to what the same parts do without it and to what is usually built.

make bench                         all of it, within a quarter of an hour, on an idle machine
make bench ARGS=--write            the same, and keep the tables in docs: speed.md, speed.json, sizing.md
make bench ARGS=--check            the same, and fail where a ratio fell against speed.json
python -m tests.bench --share 0.1  a tenth of the films, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import costs, reporting, ways
from tests.bench.films import Kind, kinds, written
from tests.support.hardware import memory_bytes, processor
from tests.support.postgres import PostgresServer

WITHIN_S = 900.0
_SPACING_S = 0.6  # between single films: longer than any of them takes
_KNOWN = (100, 100_000)  # films in the ledger before
LIBRARIES = ("preread", "ai-edge-litert", "imagecodecs", "keras", "numpy", "pillow", "pydicom", "sqlalchemy")
_DOCS = Path(__file__).parents[2] / "docs"
_TABLES, _FIGURES = _DOCS / "explanation" / "speed.md", _DOCS / "explanation" / "speed.json"
_SIZING = _DOCS / "reference" / "sizing.md"


class _Durable(PostgresServer):
    """The suite's server, but what it says is committed is on the disk."""

    fsync = "on"


def main() -> int:
    """Measure, print the tables, and keep or check them where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with chest_xray_224 and chest_xray_full; default: phantoms")
    parser.add_argument("--share", type=float, default=1.0, help="of the number of films, in (0, 1]")
    parser.add_argument("--only", action="append", help="kinds whose name holds this text; may be repeated")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs: speed.md, speed.json, sizing.md")
    parser.add_argument("--check", action="store_true", help="fail if a ratio fell against docs/explanation/speed.json")
    asked = parser.parse_args()
    if not 0 < asked.share <= 1:
        parser.error("--share must lie in (0, 1]")
    if asked.write and (asked.only or asked.share < 1):
        parser.error("--write keeps whole runs only")
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
        starts = [ways.Worker(folder / f"start-{turn}", _sqlite(folder / f"start-{turn}.db")) for turn in range(3)]
        starts_s = min(worker.starts_in_s() for worker in starts)
    found = {"machine": _machine(), "starts_in_s": round(starts_s, 2), "kinds": measured}
    page = reporting.page(found)
    print(page)
    if asked.write:
        for document, part, text in ((_TABLES, "bench", page), (_SIZING, "sizing", reporting.sizing(measured) + "\n")):
            document.write_text(reporting.inserted(document.read_text(encoding="utf-8"), part, text), encoding="utf-8")
        _FIGURES.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    worse = reporting.regressions(json.loads(_FIGURES.read_text(encoding="utf-8")), found) if asked.check else []
    for line in worse:
        _say(line)
    return 1 if worse else 0


def _sqlite(file: Path) -> str:
    return f"sqlite:///{file}"


@contextmanager
def _postgres(folder: Path) -> Iterator[Callable[[], str]]:
    """Make new, empty databases on a real server."""
    place = folder / "pg"
    place.mkdir()
    folder.chmod(0o755)  # the server may run as another user, who must reach it
    server = _Durable(place)
    try:
        yield lambda: server.url(server.create())
    finally:
        server.stop()


def _measure(kind: Kind, folder: Path, new_database: Callable[[], str]) -> dict[str, Any]:
    place = folder / "kind"
    _say(f"{kind.name}: writing {kind.films} films")
    films = written(kind, place / "films")
    few = films[: kind.few]
    _say("the floor, twice")
    floors = [ways.floor(films, ways.cores()) for _ in range(2)]
    found: dict[str, Any] = {
        "films": kind.films,
        "few": kind.few,
        "mb_a_film": round(ways.bytes_of(films[0].parent) / len(films) / 1e6, 2),
        "floor": _numbers(max(floors, key=lambda passed: passed.films_per_s)),
        "floor_alone": _numbers(ways.floor(few, 1)),
    }
    for name, url in (("sqlite", _sqlite(place / "sqlite.db")), ("postgres", new_database())):
        _say(f"the worker on {name}")
        worker = ways.Worker(place / name, url)
        found[name] = _numbers(worker.pass_all(films, WITHIN_S))
        found["preview_kb"] = round(ways.bytes_of(worker.previews) / len(films) / 1e3, 1)
        worker.close()
    found["database_kb"] = round((place / "sqlite.db").stat().st_size / len(films) / 1e3, 2)
    _say("the worker on one core")
    worker = ways.Worker(place / "one-core", _sqlite(place / "one-core.db"), cores=1)
    found["one_core"] = _numbers(worker.pass_all(few, WITHIN_S))
    worker.close()
    _say("the worker, one film at a time")
    worker = ways.Worker(place / "singly", _sqlite(place / "singly.db"))
    settled, closed = worker.pass_singly(few, _SPACING_S, WITHIN_S)
    worker.close()
    found["settled_to_committed_ms"] = _spread(settled)
    found["closed_to_committed_ms"] = _spread(closed)
    _say("the usual way")
    found["usual"] = _numbers(ways.usual(few, place / "usual"))
    _say("where the time goes")
    found["stages_ms"] = costs.stages(few[:8])
    if kind.name.startswith("JPEG, 224"):
        _say("the worker with films in its ledger")
        found["parent_ms_with"] = _with_films_known(films[: math.ceil(len(films) / 2)], place, new_database)
        found["parent_ms"] = costs.parent(films[: math.ceil(len(films) / 4)], place / "profile")
    shutil.rmtree(place)
    return found


def _with_films_known(films: list[Path], place: Path, new_database: Callable[[], str]) -> dict[str, dict[str, float]]:
    """Processor time of the parent a film, by database and by how many films its ledger held before."""
    found: dict[str, dict[str, float]] = {}
    makers: dict[str, Callable[[], str]] = {
        "sqlite": lambda: _sqlite(place / f"{time.monotonic_ns()}.db"),
        "postgres": new_database,
    }
    for name, make in makers.items():
        for known in _KNOWN:
            worker = ways.Worker(place / f"{name}-{known}", make(), known=known)
            found.setdefault(name, {})[str(known)] = round(worker.pass_all(films, WITHIN_S).parent_ms, 2)
            worker.close()
    return found


def _spread(values: list[float]) -> dict[str, float]:
    passed = ways.Passed(0.0, values, 0.0, {})
    return {f"p{round(100 * share)}": round(passed.percentile_ms(share), 1) for share in (0.5, 0.95, 0.99)}


def _numbers(passed: ways.Passed) -> dict[str, Any]:
    return {
        "films_per_s": round(passed.films_per_s, 2),
        "cpu_ms": round(passed.cpu_ms, 1),
        "peak_mb": {name: round(value) for name, value in passed.peak_mb.items()},
        **({"parent_ms": round(passed.parent_ms, 2)} if passed.parent_ms else {}),
        **({"film_ms": _spread(passed.film_ms)} if passed.film_ms else {}),
    }


def _machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": ways.cores(),
        "memory_gb": round(memory_bytes() / 1e9),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

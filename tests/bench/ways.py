"""The ways that are compared: the worker, the floor below it, and what is usually built.

The floor: the same bytes, read, decoded, shrunk and given to LiteRT in a bare loop on as many processes as the machine
has cores; no ledger, no worker, no gate, no hash. The usual way: a watchdog handler, pydicom or Pillow, Keras'
``predict`` for each picture, one INSERT a file, in one process that has all the cores.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sqlalchemy import create_engine, text

from preread.model import bundles
from tests.bench.films import put
from tests.bench.page import fill

_TICKS = os.sysconf("SC_CLK_TCK")
_READY_WITHIN_S = 120.0
_COMMITTED = "FROM file JOIN root ON root.id = root_id WHERE root.path_text = :root AND committed_at IS NOT NULL"
_USUAL = Path(__file__).with_name("usual.py")


@dataclass(frozen=True, slots=True)
class Passed:
    """What one way did with some films.

    Attributes:
        films_per_s: over all cores.
        film_ms: milliseconds of each film on its core, in order of size.
        cpu_ms: of processor time a film, all processes.
        peak_mb: the most resident memory of each process, in MB of 1e6 bytes.
        parent_ms: of processor time a film in the worker's own process, which is one for all slots.
    """

    films_per_s: float
    film_ms: list[float]
    cpu_ms: float
    peak_mb: dict[str, float]
    parent_ms: float = 0.0

    def percentile_ms(self, share: float) -> float:
        """The time below which this share of the films lies."""
        return self.film_ms[min(len(self.film_ms) - 1, round(share * (len(self.film_ms) - 1)))]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def peak_mb(pid: int | str = "self") -> float:
    """The most memory that a process had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has ended")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, in seconds, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / _TICKS


def floor(films: Sequence[Path], processes: int) -> Passed:
    """Run the bare loop on so many processes."""
    context = mp.get_context("spawn")
    barrier = context.Barrier(processes)
    results: mp.Queue[tuple[float, float, list[float], float, float]] = context.Queue()
    workers = [
        context.Process(target=_floor, args=([str(film) for film in films[part::processes]], barrier, results))
        for part in range(processes)
    ]
    for worker in workers:
        worker.start()
    parts = [results.get(timeout=1800) for _ in workers]
    for worker in workers:
        worker.join()
    took_s = max(ended for _, ended, *_ in parts) - min(began for began, *_ in parts)
    return Passed(
        len(films) / took_s,
        sorted(ms for part in parts for ms in part[2]),
        1000 * sum(part[3] for part in parts) / len(films),
        {f"process {number}": part[4] for number, part in enumerate(parts)},
    )


def _floor(
    films: list[str], barrier: Barrier, results: mp.Queue[tuple[float, float, list[float], float, float]]
) -> None:
    from preread.imaging.preprocessing import preprocess_image
    from preread.imaging.radiograph import decode_radiograph, read_image_header
    from preread.model.assess import SHORTER_SIDE_PX
    from preread.model.classifier import Classifier

    def look(film: str | Path) -> None:
        header = read_image_header(Path(film).read_bytes())
        classifier.classify(preprocess_image(spec, decode_radiograph(header, shorter_side_px=SHORTER_SIDE_PX).pixels))

    classifier = Classifier(bundles.load_bundle(bundles.find_bundle()))
    spec = classifier.bundle.manifest.preprocessing
    look(films[0])
    barrier.wait(_READY_WITHIN_S)
    before_s, began, times_ms = time.process_time(), time.time(), []
    for film in films:
        start = time.perf_counter()
        look(film)
        times_ms.append(1000 * (time.perf_counter() - start))
    results.put((began, time.time(), times_ms, time.process_time() - before_s, peak_mb()))


def usual(films: Sequence[Path], folder: Path) -> Passed:
    """Run the usual way in a process of its own: films are moved into the folder that it watches."""
    inbox, database = folder / "inbox", folder / "usual.db"
    inbox.mkdir(parents=True)
    log = folder / "usual.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, _USUAL, inbox, database, str(len(films))],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        ) as process,
    ):
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the usual way did not start: {log.read_text()[-2000:]}")
        put(films, inbox)
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the usual way broke off: {log.read_text()[-2000:]}")
    said = json.loads(line)
    return Passed(len(films) / said["took_s"], sorted(said["ms"]), said["cpu_ms"], {"process": said["peak_mb"]})


class Worker:
    """A real ``preread run`` on one root of children's films, its own database, the settings as they come.

    Args:
        url: of an empty database.
        cores: how many of the machine's it may use; ``None`` for all. As many slots as that.
        known: so many made-up films of another folder are put into the database first.
    """

    def __init__(self, folder: Path, url: str, cores: int | None = None, known: int = 0) -> None:
        self.folder, self.root, self._log = folder, folder / "root", folder / "worker.log"
        self.root.mkdir(parents=True)
        self._engine = create_engine(url)
        self._where = {"root": os.fspath(self.root)}
        self._cores = sorted(os.sched_getaffinity(0))[:cores]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
        self.environment = environment | {
            "PREREAD_DATABASE_URL": url,
            "PREREAD_SLOTS": str(len(self._cores)),
            "PREREAD_PREVIEW_DIR": os.fspath(self.previews),
        }
        subprocess.run(
            [sys.executable, "-m", "preread", "db", "upgrade"],
            env=self.environment,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        if known:
            fill(self._engine, known)

    @property
    def previews(self) -> Path:
        """Where the slots keep previews."""
        return self.folder / "previews"

    def command(self) -> list[str]:
        """The worker's arguments. Without the declaration a film without tags is refused before it is decoded."""
        run = ["run", "--root", os.fspath(self.root), "--include-existing"]
        return ["--log-json", *run, "--population", "children-1-5y"]

    @contextmanager
    def running(self) -> Iterator[int]:
        """The worker, ready to read; its process number."""
        every = os.sched_getaffinity(0)
        with self._log.open("ab") as log:
            os.sched_setaffinity(0, self._cores)  # what is started inherits it
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "preread", *self.command()],
                    env=self.environment,
                    cwd=self.folder,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
            finally:
                os.sched_setaffinity(0, every)
        try:
            until(lambda: self.is_ready() or process.poll() is not None, _READY_WITHIN_S, 0.01)
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended: {self._log.read_text()[-2000:]}")
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def is_ready(self) -> bool:
        """Whether a slot has its bundle."""
        return '"worker_ready"' in self._log.read_text(encoding="utf-8")

    def done(self) -> int:
        """How many files are committed."""
        with self._engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) {_COMMITTED}"), self._where).scalar_one())

    def times(self) -> list[tuple[str, float, float]]:
        """Of each committed file: name, when it settled and when it was committed, in seconds of the epoch.

        Raises:
            RuntimeError: a film was not assessed, so that this measured something else.
        """
        with self._engine.connect() as connection:
            what = f"SELECT file.path_text, settled_at, committed_at, outcome, code {_COMMITTED}"
            rows = connection.execute(text(what), self._where).all()
        if others := [f"{row.path_text}: {row.outcome} {row.code}" for row in rows if row.outcome != "assessed"]:
            raise RuntimeError(f"{len(others)} of {len(rows)} films were not assessed, as {others[0]}")
        return [(Path(row.path_text).name, _epoch_s(row.settled_at), _epoch_s(row.committed_at)) for row in rows]

    def pass_all(self, films: Sequence[Path], within_s: float) -> Passed:
        """All at once, into the root of a worker that is ready.

        The rate counts from the first commit on: how long a film settles is a figure of its own. The processor time is
        all that was spent since the films came, on noticing and settling them too.
        """
        with self.running() as pid:
            processes = [pid, *_children(pid)]
            before_s = [cpu_s(process) for process in processes]
            put(films, self.root)
            until(lambda: self.done() == len(films), within_s)
            spent_ms = [1000 * (cpu_s(one) - was) / len(films) for one, was in zip(processes, before_s, strict=True)]
            names = ["parent", *(f"slot {number}" for number in range(len(processes) - 1))]
            memory = dict(zip(names, map(peak_mb, processes), strict=True))
        ended = sorted(committed for _, _, committed in self.times())
        rate = (len(ended) - 1) / (ended[-1] - ended[0])
        return Passed(rate, [], sum(spent_ms), memory, spent_ms[0])

    def pass_singly(self, films: Sequence[Path], every_s: float, within_s: float) -> tuple[list[float], list[float]]:
        """One film every so many seconds, so that each finds the slots idle.

        Returns:
            Milliseconds from settled and from closed to committed, each in order of size.
        """
        closed: dict[str, float] = {}
        with self.running():
            for film in films:
                put([film], self.root)
                closed[film.name] = time.time()
                time.sleep(every_s)
            until(lambda: self.done() == len(films), within_s)
        times = self.times()
        return (
            sorted(1000 * (committed - settled) for _, settled, committed in times),
            sorted(1000 * (committed - closed[name]) for name, _, committed in times),
        )

    def starts_in_s(self) -> float:
        """Seconds from start until a slot is ready to read."""
        began = time.monotonic()
        with self.running():
            return time.monotonic() - began

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def bytes_of(folder: Path) -> int:
    """All that lies below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _epoch_s(value: str | datetime) -> float:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def until(condition: Callable[[], bool], within_s: float, look_every_s: float = 0.1) -> None:
    """Wait; what looks more often takes the cores from what is measured."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"the worker was not done within {within_s:.0f} s")
        time.sleep(look_every_s)

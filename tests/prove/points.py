"""The process, a slot, or the database fails at every point between discovery and commit, one point after the other."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.prove.bench import Bench, Database, Postgres, Row, Worker, film, noted, timed, unreadable_and_refused, until

EXITED = 9
FILMS = 3
TRIES = 3


def spread(points: Sequence[str], limit: int) -> list[str]:
    """Return at most ``limit`` of the points, evenly from the first to the last; 0 means all."""
    if not limit or len(points) <= limit:
        return list(points)
    return [points[index * (len(points) - 1) // max(1, limit - 1)] for index in range(limit)]


@contextmanager
def scene(folder: Path, database: Database) -> Iterator[Bench]:
    """Make a folder with six films, of which one is a copy, one is to be refused and one unreadable."""
    here = Path(tempfile.mkdtemp(prefix="scene-", dir=folder))
    with closing(Bench(here, database)) as bench:
        for number in range(FILMS):
            bench.write(f"film{number}", film(number))
        unreadable_and_refused(bench)
        yield bench


def _points(folder: Path, database: Database) -> list[str]:
    with scene(folder, database) as bench:
        worker = bench.start("faulty_worker.py", "list", "-", once=True)
        said = worker.process.stdout.read()  # type: ignore[union-attr]
        assert worker.ends() == 0, worker.said()
        return list(dict.fromkeys(said.splitlines()))


def process_ends(folder: Path, database: Database, limit: int) -> Row:
    """End the worker's process at each point; the next worker does the rest."""
    row = Row("crash points", database.name, "daemon, stub slots", "")
    repeated = 0

    def fail(bench: Bench, point: str) -> bool:
        nonlocal repeated
        ended = bench.start("faulty_worker.py", "exit", point, once=True).ends()
        assert ended in {0, EXITED}, f"the worker ended with {ended}"
        bench.once()
        repeated += sum(bench.inferred().values()) - len(bench.inferred())
        return ended == EXITED

    with timed(row):
        points = _points(folder, database)
        reached = _at_each(folder, database, row, spread(points, limit), fail)
        row.done = f"process ended at {reached} of {len(points)} points, then started again"
        row.note = "; ".join(filter(None, (f"{repeated} inferences repeated", row.note)))
    return row


def slot_ends(folder: Path, database: Database, limit: int) -> Row:
    """Kill the slot at each of its steps."""
    row = Row("slot's crash points", database.name, "daemon, stub slots", "")

    def fail(bench: Bench, step: str) -> bool:
        marker = bench.folder / "marker"
        marker.touch()
        bench.once(slot=["dying_slot.py", step, str(marker)])
        return not marker.exists()

    with timed(row):
        with scene(folder, database) as bench:
            marker = bench.folder / "marker"
            bench.once(slot=["dying_slot.py", "list", str(marker)])
            steps = list(dict.fromkeys(marker.read_text().splitlines()))
        reached = _at_each(folder, database, row, spread(steps, limit), fail)
        row.done = f"slot killed at {reached} of {len(steps)} steps"
    return row


def statements_fail(folder: Path, database: Database, limit: int) -> Row:
    """Postgres: the server crashes and starts again before and after each statement; SQLite: the statement fails."""
    row = Row("database, each statement", database.name, "daemon, stub slots", "")
    with timed(row):
        points = [point for point in _points(folder, database) if "slots:" not in point]
        fail: Callable[[Bench, str], bool]
        if isinstance(database, Postgres):
            what, fail = "server crashed and started", partial(_restart_at, database)
        else:
            what, fail = "I/O error", _fail_at
            # it was done, and says that it failed: for a server that crashes this is the moment before the next one
            points += [f"after{point.removeprefix('before')}" for point in points if "COMMIT" not in point]
        reached = _at_each(folder, database, row, spread(points, limit), fail)
        row.done = f"{what} at {reached} of {len(points)} points, the worker lives on"
    return row


def _at_each(
    folder: Path, database: Database, row: Row, points: Sequence[str], fail: Callable[[Bench, str], bool]
) -> int:
    """Let something fail at each point, in a scene of its own; return at how many it came to that."""
    reached = 0
    for point in points:
        for _ in range(TRIES):  # two threads: not every order of points comes at every run
            met, failures = False, len(row.failures)
            with noted(row, point), scene(folder, database) as bench:
                met = fail(bench, point)
                verdict = bench.verdict()
                row.add(verdict)
                assert verdict, str(verdict)
            if met or len(row.failures) > failures:
                break
        reached += met
    if reached < len(points):
        row.note = f"{len(points) - reached} points not met again"
    return reached


def _restart_at(database: Postgres, bench: Bench, point: str) -> bool:
    worker = bench.start("faulty_worker.py", "ask", point, once=True)
    met = bool(worker.process.stdout.readline())  # type: ignore[union-attr]
    if met:
        database.crash()
        bench.engine.dispose()
        with suppress(BrokenPipeError):
            worker.process.stdin.write("\n")  # type: ignore[union-attr]
            worker.process.stdin.flush()  # type: ignore[union-attr]
    _assert_done(worker)
    return met


def _fail_at(bench: Bench, point: str) -> bool:
    worker = bench.start("faulty_worker.py", "error", point, once=True)
    met = bool(worker.process.stdout.read())  # type: ignore[union-attr]
    _assert_done(worker)
    return met


def _assert_done(worker: Worker) -> None:
    code = worker.ends()
    assert code == 0, f"the worker ended with {code}: {worker.said()}"


# --------------------------------------------------------------------------- a commit whose answer is lost


class Proxy:
    """Between workers and a Postgres server: the answer to one COMMIT is swallowed, and its connection closed."""

    def __init__(self, folder: Path, server: Path, lose: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.commits = 0
        self._server = str(server / ".s.PGSQL.5432")
        self._lose = lose
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                deaf = threading.Event()
                for source, sink, look in ((client, server, self._count), (server, client, None)):
                    threading.Thread(target=self._pump, args=(source, sink, deaf, look), daemon=True).start()

    def _count(self, sent: bytes) -> bool:
        if b"COMMIT" not in sent:
            return False
        with self._lock:
            self.commits += 1
            return self.commits == self._lose

    def _pump(
        self, source: socket.socket, sink: socket.socket, deaf: threading.Event, look: Callable[[bytes], bool] | None
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if look is not None and look(data):
                    deaf.set()
                if look is None and deaf.is_set():
                    break  # the server has done it and says so; nobody hears
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def answers_lost(folder: Path, database: Postgres, limit: int) -> Row:
    """Lose the answer to each commit in turn: the worker cannot know whether it arrived."""
    row = Row("answer to a commit lost", database.name, "daemon, stub slots", "")
    with timed(row):
        commits = _through_proxy(folder, database, row, 0)
        chosen = spread([str(one) for one in range(1, commits + 1)], limit)
        for number in chosen:
            with noted(row, f"commit {number}"):
                _through_proxy(folder, database, row, int(number))
        row.done = f"at {len(chosen)} of {commits} commits, through a proxy"
    return row


def _through_proxy(folder: Path, database: Postgres, row: Row, lose: int) -> int:
    with scene(folder, database) as bench:
        # a socket's path may not be long
        place = Path(f"/tmp/preread-proxy-{os.getpid()}-{bench.folder.name}")
        with closing(Proxy(place, database.server.folder, lose)) as proxy:
            url = bench.url.replace(f"host={database.server.folder}", f"host={place}")
            worker = bench.start(once=True, url=url)
            _assert_done(worker)
            until(lambda: proxy.commits >= lose, "the commit whose answer is lost")
            commits = proxy.commits
        (place / ".s.PGSQL.5432").unlink()
        place.rmdir()
        verdict = bench.verdict()
        row.add(verdict)
        assert verdict, str(verdict)
    return commits

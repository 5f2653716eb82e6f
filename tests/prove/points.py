"""The process, a slot, or the database fails at every point between discovery and commit, one point after the other."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.prove.bench import Bench, Database, Postgres, Row, Worker, film, timed, unreadable_and_refused, until

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


def _settle(row: Row, bench: Bench, point: str) -> None:
    verdict = bench.verdict()
    row.add(verdict)
    if not verdict:
        row.failures.append(f"{point}: {verdict}")


def _points(folder: Path, database: Database) -> list[str]:
    with scene(folder, database) as bench:
        worker = bench.start("faulty_worker.py", "list", "-", once=True)
        said = worker.process.stdout.read()  # type: ignore[union-attr]
        assert worker.ends() == 0, worker.said()
        return list(dict.fromkeys(said.splitlines()))


def process_ends(folder: Path, database: Database, limit: int) -> Row:
    """End the worker's process at each point; the next worker does the rest."""
    row = Row("crash points", database.name, "daemon, stub slots", "")
    with timed(row):
        points = _points(folder, database)
        chosen = spread(points, limit)
        reached, inferences = 0, 0
        for point in chosen:
            for _ in range(TRIES):  # two threads: not every order of points comes at every run
                with scene(folder, database) as bench:
                    ended = bench.start("faulty_worker.py", "exit", point, once=True).ends()
                    assert ended in {0, EXITED}, f"{point}: the worker ended with {ended}"
                    bench.once()
                    _settle(row, bench, point)
                    inferences += sum(bench.inferred().values()) - len(bench.inferred())
                if ended:
                    reached += 1
                    break
        row.done = f"process ended at {reached} of {len(points)} points, then started again"
        row.note = f"{inferences} inferences repeated"
        if reached < len(chosen):
            row.note += f"; {len(chosen) - reached} points not met again"
    return row


def slot_ends(folder: Path, database: Database, limit: int) -> Row:
    """Kill the slot at each of its steps."""
    row = Row("slot's crash points", database.name, "daemon, stub slots", "")
    with timed(row):
        with scene(folder, database) as bench:
            marker = bench.folder / "marker"
            bench.once(slot=["dying_slot.py", "list", str(marker)])
            steps = list(dict.fromkeys(marker.read_text().splitlines()))
        reached = 0
        for step in spread(steps, limit):
            with scene(folder, database) as bench:
                marker = bench.folder / "marker"
                marker.touch()
                bench.once(slot=["dying_slot.py", step, str(marker)])
                reached += not marker.exists()
                _settle(row, bench, step)
        row.done = f"slot killed at {reached} of {len(steps)} steps"
    return row


def statements_fail(folder: Path, database: Database, limit: int) -> Row:
    """Postgres: the server crashes and starts again before and after each statement; SQLite: the statement fails."""
    row = Row("database, each statement", database.name, "daemon, stub slots", "")
    with timed(row):
        points = [point for point in _points(folder, database) if "slots:" not in point]
        if not isinstance(database, Postgres):
            # it was done, and says that it failed: for a server that crashes this is the moment before the next one
            points += [f"after{point.removeprefix('before')}" for point in points if "COMMIT" not in point]
        reached = 0
        chosen = spread(points, limit)
        for point in chosen:
            for _ in range(TRIES):
                with scene(folder, database) as bench:
                    met = (
                        _restart_at(bench, database, point)
                        if isinstance(database, Postgres)
                        else _fail_at(bench, point)
                    )
                    _settle(row, bench, point)
                if met:
                    reached += 1
                    break
        what = "server crashed and started" if isinstance(database, Postgres) else "I/O error"
        row.done = f"{what} at {reached} of {len(points)} points, the worker lives on"
        if reached < len(chosen):
            row.note = f"{len(chosen) - reached} points not met again"
    return row


def _restart_at(bench: Bench, database: Postgres, point: str) -> bool:
    worker = bench.start("faulty_worker.py", "ask", point, once=True)
    met = bool(worker.process.stdout.readline())  # type: ignore[union-attr]
    if met:
        database.crash()
        bench.engine.dispose()
        with suppress(BrokenPipeError):
            worker.process.stdin.write("\n")  # type: ignore[union-attr]
            worker.process.stdin.flush()  # type: ignore[union-attr]
    _assert_done(worker, point)
    return met


def _fail_at(bench: Bench, point: str) -> bool:
    _assert_done(bench.start("faulty_worker.py", "error", point, once=True), point)
    return True


def _assert_done(worker: Worker, point: str) -> None:
    code = worker.ends()
    assert code == 0, f"{point}: the worker ended with {code}: {worker.said()}"


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
        for number in spread([str(one) for one in range(1, commits + 1)], limit):
            _through_proxy(folder, database, row, int(number))
        row.done = f"at {min(limit, commits) if limit else commits} of {commits} commits, through a proxy"
    return row


def _through_proxy(folder: Path, database: Postgres, row: Row, lose: int) -> int:
    with scene(folder, database) as bench:
        # a socket's path may not be long
        place = Path(f"/tmp/preread-proxy-{os.getpid()}-{bench.folder.name}")
        with closing(Proxy(place, database.server.folder, lose)) as proxy:
            url = bench.url.replace(f"host={database.server.folder}", f"host={place}")
            worker = bench.start(once=True, url=url)
            _assert_done(worker, f"commit {lose}")
            until(lambda: proxy.commits >= lose, "the commit whose answer is lost")
            commits = proxy.commits
        (place / ".s.PGSQL.5432").unlink()
        place.rmdir()
        _settle(row, bench, f"commit {lose}")
    return commits

"""Thread that opens the files of an inference process and checks them.

The process opens nothing. A thread here, one for each process, opens the file beneath its root and sends the
descriptor; when the process has answered, it checks whether the path still leads to that file, and writes the preview.
A share that hangs holds this thread and its process, not the worker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Generic, TypeVar

from preread.core.errors import EnvironmentFault, TooManyBytes
from preread.core.text.escaping import escape
from preread.core.types import Outcome
from preread.imaging import previews
from preread.imaging.previews import PreviewStore
from preread.ledger.records import Observation
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Report
from preread.share import safe_read

Ticket = TypeVar("Ticket")


class FileThread(Generic[Ticket]):
    """Thread that opens, and afterwards checks, the files of one process.

    Args:
        send: sends a job to the process, with the descriptor of its file.
        put: gets the result of each file.
        max_bytes: a larger file is not opened.
        store: where previews are kept; ``None`` keeps none.

    Attributes:
        thread: the thread.
        status: of the file that the process has; ``None`` if it has none yet.
    """

    def __init__(
        self,
        send: Callable[[Job, int], None],
        put: Callable[[Ticket, Report | EnvironmentFault], None],
        max_bytes: int,
        store: PreviewStore | None,
    ) -> None:
        self.status: os.stat_result | None = None
        self._send = send
        self._put = put
        self._max_bytes = max_bytes
        self._store = store
        # guards what the thread does to descriptors: none may be another's by then
        self._lock = threading.Lock()
        self._closed = False
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="inference-files", daemon=True)
        self.thread.start()

    def request_open(self, ticket: Ticket, job: Job) -> None:
        """Request to open a job's file and to send it to the process."""
        self._tasks.put(lambda: self._open(ticket, job))

    def request_check(self, ticket: Ticket, job: Job, report: Report, preview: bytes | None) -> None:
        """Request to check a read file again and to write its preview.

        Args:
            ticket: of the file.
            job: of the file.
            report: of the process.
            preview: its PNG; ``None`` if there is none to write.

        Raises:
            ValueError: the process was given no file.
        """
        if (status := self.status) is None:
            raise ValueError("the inference process sent a report of a file that it was not given")
        self._tasks.put(lambda: self._check(ticket, job, status, report, preview))

    def close(self) -> None:
        """End the thread, as soon as the share lets it; no result comes."""
        with self._lock:
            self._closed = True
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _open(self, ticket: Ticket, job: Job) -> None:
        began = time.perf_counter()
        expected = Observation(protocol.text_to_path(job.path), job.size_bytes, job.mtime_ns)
        try:
            descriptor, status = safe_read.open_observed_file(
                protocol.text_to_path(job.root), expected, self._max_bytes
            )
        except TooManyBytes as error:
            ms = (time.perf_counter() - began) * 1000
            self._end(ticket, Report(Outcome.UNREADABLE, None, ms, code=error.code, reason=escape(str(error))))
            return
        except EnvironmentFault as error:
            self._end(ticket, error)
            return
        with self._lock:
            if not self._closed:
                self.status = status
                self._send(replace(job, root=""), descriptor)
        os.close(descriptor)

    def _check(self, ticket: Ticket, job: Job, status: os.stat_result, report: Report, preview: bytes | None) -> None:
        try:
            # whatever was found holds only for a file that stood still meanwhile
            safe_read.check_file_unchanged(protocol.text_to_path(job.root), protocol.text_to_path(job.path), status)
        except EnvironmentFault as error:
            self._end(ticket, error)
            return
        store, sha256 = self._store, report.sha256
        if store is not None and sha256 is not None and preview is not None and not self._closed:
            kept = previews.has_preview(store.folder, sha256) or previews.store_preview(
                store.folder, sha256, preview, store.min_free_bytes
            )
            report = replace(report, preview_dropped=report.preview_dropped or not kept)
        self._end(ticket, report)

    def _end(self, ticket: Ticket, found: Report | EnvironmentFault) -> None:
        with self._lock:
            if not self._closed:
                self._put(ticket, found)

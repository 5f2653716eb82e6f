"""The doctors' page over results that a test commits, without a worker."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from sqlalchemy import Connection, Engine

from preread.core.errors import DecodeFailed
from preread.core.types import Answer, Caveat, FileState, Finding, Identity, Population, RefusalCode, Role
from preread.db.engine import database_now, read
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation, Pulse, RootPulse
from preread.review.auth import accounts
from preread.review.auth.accounts import Account
from preread.web import server
from preread.web.app import create_app
from preread.web.context import WebOptions
from preread_training.data import phantoms
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable, header_of

PASSWORD = "correct horse battery"
MANIFEST = json.dumps(
    {
        "findings": [
            {
                "finding": "pneumonia",
                "predictive_values": [
                    {"prevalence": 0.05, "ppv": 0.3, "npv": 0.999},
                    {"prevalence": 0.2, "ppv": 0.7, "npv": 0.99},
                ],
            }
        ]
    }
)


@dataclass
class Films:
    """Films as a worker would have committed them; ``now`` is the ledger's clock, which ``wait`` moves."""

    engine: Engine
    preview_dir: Path
    now: datetime = field(init=False)
    ledger: Ledger = field(init=False)
    root_id: int = field(init=False)
    bundle_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = read(self.engine, database_now)
        self.ledger = Ledger(self.engine, worker_id="one", lease_s=60, clock=self._clock)
        self.root_id = self.ledger.register_root(b"/srv/inbox")
        self.bundle_id = self.ledger.register_bundle(name="films", version="1", digest="d" * 64, manifest=MANIFEST)

    def _clock(self, _connection: Connection) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def scan(self) -> None:
        """A worker that runs, and a complete scan."""
        self.ledger.heartbeat(Pulse(30.0, 2, 2, (RootPulse(self.root_id, moves=True),)))
        self.ledger.record_scan_start(self.root_id)
        self.ledger.record_scan_end(self.root_id)

    def add(
        self,
        name: str,
        answer: Answer | RefusalCode | None = Answer.NOT_FLAGGED,
        *,
        preview: bool = False,
        mtime_ns: int = 1,
        content: str | None = None,
        **identity: Any,
    ) -> int:
        """Commit one film and return its id: assessed with this answer, refused with this code, or unreadable."""
        path = name.encode()
        seen = self.ledger.observe(self.root_id, [Observation(path, 100, mtime_ns)])
        self.ledger.settle(seen.values())
        return self._read(path, answer, preview=preview, content=content or f"{name} {mtime_ns}", identity=identity)

    def again(self, film: int, name: str, answer: Answer | RefusalCode | None, **identity: Any) -> None:
        """Read a film again, with this outcome, by a newer bundle."""
        self.bundle_id += 1
        digest = f"{self.bundle_id:064}"
        assert self.bundle_id == self.ledger.register_bundle(
            name="films", version=str(self.bundle_id), digest=digest, manifest=MANIFEST
        )
        assert self.ledger.requeue([film], "asked for", states=[FileState.DONE, FileState.QUARANTINED]) == 1
        assert self.commit(name, answer, **identity) == film

    def commit(self, name: str, answer: Answer | RefusalCode | None, **identity: Any) -> int:
        """Read a film that waits, with this outcome, by the bundle in use."""
        return self._read(name.encode(), answer, content=f"{name} 1", identity=identity)

    def _read(
        self,
        path: bytes,
        answer: Answer | RefusalCode | None,
        *,
        content: str,
        identity: dict[str, Any],
        preview: bool = False,
    ) -> int:
        until = time.monotonic() + 60
        while not (claims := self.ledger.claim([self.root_id], 1)):
            # a reader may be signing just now, and what another transaction holds is passed over on Postgres
            assert time.monotonic() < until, f"{path!r} is not to be had"
        (claim,) = claims
        assert claim.path == path
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        unnamed = (Caveat.UNIDENTIFIED,) if "patient_id" not in identity else ()
        facts = FileFacts(
            sha256=sha256,
            identity=Identity(**identity),
            study_header=header_of(Identity(**identity)),
            format="DICOM",
            rows=2000,
            columns=1500,
            population=Population.UNDECLARED,
            gate_caveats=unnamed,
            ms=40.0,
        )
        if isinstance(answer, Answer):
            probability = {Answer.FLAGGED: 0.91, Answer.UNCERTAIN: 0.4, Answer.NOT_FLAGGED: 0.03}[answer]
            said = ContentAssessment(
                findings=(Finding("pneumonia", 1.0, probability, 0.3, answer),),
                pixel_caveats=(Caveat.NO_WINDOW,),
                decoder="numpy 2",
                activation_map=np.linspace(-1, 2, 36, dtype=np.float32).reshape(6, 6),
            )
            assert commit_assessed(self.ledger, claim, facts, self.bundle_id, said)
        elif isinstance(answer, RefusalCode):
            assert commit_refused(self.ledger, claim, facts, self.bundle_id, answer, "the film shows something else")
        else:
            assert commit_unreadable(self.ledger, claim, DecodeFailed("the pixel data is damaged"), facts)
        if preview:
            drawn = phantoms.draw_chest(claim.file_id, rows=400, columns=320)
            assert previews.store_preview(self.preview_dir, sha256, encode_preview(drawn), 0)
        return claim.file_id

    def person(self, name: str = "ada", role: Role = Role.READER) -> Account:
        accounts.add_account(self.engine, "uid:0", accounts.NewAccount(name, f"Dr {name.title()}", role, PASSWORD))
        return accounts.find_account(self.engine, name)


@contextmanager
def served(
    films: Films, proxy: str | None, eventually: Callable[..., None], certificate: tuple[Path, Path] | None = None
) -> Iterator[int]:
    """The page on a free port, as ``preread web`` serves it with this setting."""
    options = WebOptions(https=bool(proxy or certificate), proxy=proxy, tls=certificate is not None)
    app = create_app(films.engine, options)
    cert, key = certificate or (None, None)
    running = uvicorn.Server(server.configure(app, proxy=proxy, tls_cert=cert, tls_key=key))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            eventually(lambda: running.started)
            yield listening.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join()

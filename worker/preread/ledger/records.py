"""What the ledger is told and what it tells: frozen records, without a database behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from preread.core.errors import EnvironmentFault
from preread.core.types import (
    Caveat,
    FileState,
    Finding,
    FloatArray,
    Identity,
    ImageStatistics,
    Outcome,
    Population,
)

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one directory entry.

    Attributes:
        path: relative to its root, as ``os.fsencode`` gives it; never normalised or case-folded.
        size_bytes: ``st_size``.
        mtime_ns: ``st_mtime_ns``; only ever compared for equality. Held within 64 bits (a hostile time stamp beyond the
            year 2262 is clamped, so compare two observations with each other and not with a raw ``stat``).
        inode: ``st_ino``, held within 63 bits.
        ctime_ns: ``st_ctime_ns``: a change of rights shows in nothing else. No part of the comparison of two looks.
    """

    path: bytes
    size_bytes: int
    mtime_ns: int
    inode: int = 0
    ctime_ns: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        for name in ("mtime_ns", "ctime_ns"):
            object.__setattr__(self, name, max(-_INT64_MAX - 1, min(_INT64_MAX, getattr(self, name))))
        object.__setattr__(self, "inode", self.inode & _INT64_MAX)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one path, as the ledger has it. Times are aware, UTC, by the database's clock.

    Attributes:
        settled_at: when it was READY for the first time; ``None`` while it never was.
        code: why it is QUARANTINED or refused, or the rule for which it is IGNORED.
        backlog: it lay in the root before Preread first looked there.
    """

    file_id: int
    root_id: int
    path: bytes
    size_bytes: int
    mtime_ns: int
    inode: int
    state: FileState
    code: str | None
    first_seen_at: datetime
    settled_at: datetime | None
    backlog: bool = False
    ctime_ns: int | None = None

    def matches(self, observation: Observation) -> bool:
        """Tell whether the observation shows this very version (equal size and modification time)."""
        return (self.size_bytes, self.mtime_ns) == (observation.size_bytes, observation.mtime_ns)

    def is_another_file(self, observation: Observation) -> bool:
        """Tell whether a file of this size and time took the place of the one that was read, as when names are swapped.

        Both inode and change time must differ: a share may number its files anew at each mount, and a change of rights
        changes no bytes.
        """
        known = self.inode != 0 and self.ctime_ns is not None
        return known and self.inode != observation.inode and self.ctime_ns != observation.ctime_ns


@dataclass(frozen=True, slots=True)
class RootPulse:
    """How a worker finds one of its roots.

    Attributes:
        moves: its look at the folder went on since the last pulse.
        fault: why the folder, or a part of it, cannot be listed now; ``None`` when it can.
    """

    root_id: int
    moves: bool
    fault: EnvironmentFault | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a worker says of itself beside that it lives.

    Attributes:
        scan_interval_s: seconds from one full scan of a root to the next.
        slots: how many slots it wants.
        slots_alive: how many of them could read a film now.
        watcher_restarts: how often watching for the kernel's events had to begin anew, in all its roots together.
        previews_dropped: the last preview that was asked for could not be kept.
        slots_lack: what confines slots and is not to be had here; see ``confinement``.
    """

    scan_interval_s: float
    slots: int
    slots_alive: int
    roots: tuple[RootPulse, ...] = ()
    watcher_restarts: int = 0
    previews_dropped: bool = False
    slots_lack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to read one file version and to commit what it holds, until its lease runs out.

    Attributes:
        epoch: grows with every claim of this version; a commit with an older epoch is fenced.
        attempts: slot deaths that still count, this attempt included (1 for the first).
        interruptions: deaths of a whole worker while this version was claimed.
        alone: it took part in three deaths of a worker: run it with nothing else in flight. The ledger hands it out
            only while this worker holds no other claim, and hands out nothing beside it.
        settled_for_s: how long ago the version had settled when it was claimed.
        forgets: films were purged from this database, and what this one holds may be among them.
        failed: it ended its inference process, or held it until the deadline, since it was to be read.
    """

    file_id: int
    root_id: int
    path: bytes
    size_bytes: int
    mtime_ns: int
    epoch: int
    attempts: int
    interruptions: int
    alone: bool = False
    settled_for_s: float = math.inf
    forgets: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What reading a file told of the version and of its bytes, whatever its outcome.

    Attributes:
        sha256: lower-case hex digest of exactly the bytes that were read.
        identity: from the tags or the root's path pattern; belongs to the file version.
        format: ``DICOM``, ``JPEG``, ``PNG``, or ``""`` where it was not recognised.
        population: what the root declared when the file was read.
        gate_caveats: of the intended-use gate, for this version under this declaration.
        ms: milliseconds from opening the file to its outcome.
    """

    sha256: str
    identity: Identity = field(default_factory=Identity)
    format: str = ""
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    population: Population = Population.UNDECLARED
    gate_caveats: tuple[Caveat, ...] = ()
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ContentAssessment:
    """What a bundle says of some bytes; kept once per content and bundle.

    Attributes:
        pixel_caveats: what the pixel path had to assume.
        decoder: name and version of what decoded the pixel data.
        activation_map: float32, 2 or 3 axes, e.g. [7, 7, 1].
        picture: of what the network saw.
    """

    findings: tuple[Finding, ...]
    pixel_caveats: tuple[Caveat, ...]
    decoder: str
    activation_map: FloatArray
    picture: ImageStatistics | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a claim ends: the outcome of its film.

    Attributes:
        facts: ``None`` only where no bytes were read, and so the film is unreadable.
        code, reason: why it is refused or unreadable; of what is assessed neither.
        content: ``None`` unless it is assessed, and where these bytes were assessed before.
    """

    claim: Claim
    outcome: Outcome
    facts: FileFacts | None
    code: str | None = None
    reason: str | None = None
    content: ContentAssessment | None = None

    def __post_init__(self) -> None:
        if self.facts is None and self.outcome is not Outcome.UNREADABLE:
            raise ValueError("an outcome that needs bytes came without any")

    @property
    def read(self) -> FileFacts:
        """The facts, where they are known to be there."""
        assert self.facts is not None
        return self.facts

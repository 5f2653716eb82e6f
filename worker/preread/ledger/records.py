"""Immutable records that the ledger takes and returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from preread.core.errors import EnvironmentFault
from preread.core.study_header import StudyHeader
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
    """One directory entry as a scan found it.

    Attributes:
        path: relative to its root, as ``os.fsencode`` gives it; neither normalised nor case-folded.
        size_bytes: ``st_size``.
        mtime_ns: ``st_mtime_ns``, clamped to 64 bits (a time beyond the year 2262) and compared for equality alone;
            compare two observations with each other, not with a raw ``stat``.
        inode: ``st_ino``, its lowest 63 bits.
        ctime_ns: ``st_ctime_ns``, the only trace of changed rights; not compared by ``==``.
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
    """One version of one path, as the ledger stores it.

    Times are aware UTC datetimes by the database's clock.

    Attributes:
        file_id: id of the version.
        root_id: id of its watched folder.
        path: relative to its root; see ``Observation``.
        size_bytes, mtime_ns, inode, ctime_ns: of the file; see ``Observation``.
        state: its state.
        code: of the quarantine or refusal, or of the rule by which it is IGNORED; ``None`` without one.
        first_seen_at: time of the first observation.
        settled_at: time when it was READY for the first time; ``None`` before.
        backlog: it lay in the root before the first start.
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
        """Return whether an observed file has this version's size and mtime."""
        return (self.size_bytes, self.mtime_ns) == (observation.size_bytes, observation.mtime_ns)

    def is_another_file(self, observation: Observation) -> bool:
        """Return whether another file of equal size and mtime replaced this one.

        For example, if two files were swapped by renaming. Both inode and change time must differ: a share may renumber
            its files at each mount, and changed rights change no bytes.
        """
        known = self.inode != 0 and self.ctime_ns is not None
        return known and self.inode != observation.inode and self.ctime_ns != observation.ctime_ns


@dataclass(frozen=True, slots=True)
class RootPulse:
    """State of a watched folder, as its worker reports it.

    Attributes:
        root_id: id of the folder.
        moves: scanning made progress since the last pulse.
        fault: why the folder, or a part of it, cannot be listed now; ``None`` if it can.
    """

    root_id: int
    moves: bool
    fault: EnvironmentFault | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Status of a worker, reported with its heartbeat.

    Attributes:
        scan_interval_s: seconds from one full scan of a root to the next.
        ``slots``: number of inference processes that it should have.
        ``slots_alive``: number of them that can read a file now.
        roots: its watched folders.
        watcher_restarts: number of restarts of the file-system watchers, of all its roots together.
        previews_dropped: the last preview could not be kept.
        ``slots_lack``: names of means of confinement that are not available here; see ``confinement``.
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
    """A worker's right to read one file version and commit its outcome.

    The claim holds until its lease runs out.

    Attributes:
        file_id: id of the version.
        root_id: id of its watched folder.
        path: relative to its root; see ``Observation``.
        size_bytes, mtime_ns: of the file; see ``Observation``.
        epoch: grows with every claim of this version; a commit with an older epoch is fenced.
        attempts: attempts that count, this one included (1 for the first).
        interruptions: deaths of a worker while it held a claim of this version.
        alone: the version took part in three deaths of a worker and must run with nothing else in flight. It is claimed
            only while this worker holds no other claim, and nothing is claimed beside it.
        settled_for_s: seconds between the version's completion and this claim.
        forgets: files were purged from this database, and the content of this one may be among them.
        failed: it ended an inference process or met its deadline since it became pending.
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
    """Facts about a file version and its bytes, whatever its outcome.

    Attributes:
        sha256: lower-case hex digest of exactly the bytes that were read.
        identity: from the data elements or the root's path pattern; belongs to the file version.
        format: ``DICOM``, ``JPEG``, ``PNG``, or ``""`` if it was not recognised.
        transfer_syntax_uid: of a DICOM file (PS3.5 section 10); ``None`` for others.
        rows, columns: of the image in pixels; ``None`` if unknown.
        population: the declared population of the root when the file was read.
        gate_caveats: of the intended use, for this version under this declaration.
        ms: milliseconds from opening the file to its outcome.
        study_header: patient and study as the file states them; ``None`` for JPEG and PNG, or without a header.
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
    study_header: StudyHeader | None = None


@dataclass(frozen=True, slots=True)
class ContentAssessment:
    """Result of one bundle for one content.

    Attributes:
        findings: in the bundle's order.
        pixel_caveats: assumptions of decoding and rendering.
        decoder: name and version of the decoder of the pixel data.
        activation_map: float32 [rows, columns] or [rows, columns, findings], e.g. [7, 7, 1].
        statistics: of the network's input; ``None`` if not measured.
    """

    findings: tuple[Finding, ...]
    pixel_caveats: tuple[Caveat, ...]
    decoder: str
    activation_map: FloatArray
    statistics: ImageStatistics | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Outcome of a claimed file, to be committed.

    Attributes:
        claim: the claim that ends.
        outcome: assessed, refused or unreadable.
        facts: ``None`` if no bytes were read, for unreadable files alone.
        code, reason: of a refusal or an unreadable file; ``None`` if it was assessed.
        content: the new assessment; ``None`` for other outcomes, or if these bytes were assessed before.
    """

    claim: Claim
    outcome: Outcome
    facts: FileFacts | None
    code: str | None = None
    reason: str | None = None
    content: ContentAssessment | None = None

    def __post_init__(self) -> None:
        if self.facts is None and self.outcome is not Outcome.UNREADABLE:
            raise ValueError(f"the outcome {self.outcome} needs facts about the bytes")

    @property
    def read(self) -> FileFacts:
        """Facts about the bytes of a file that was read."""
        assert self.facts is not None
        return self.facts

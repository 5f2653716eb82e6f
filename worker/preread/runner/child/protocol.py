"""Messages between the worker and an inference process, as JSON.

By a socket the worker sends one ``Setup`` and then one ``Job`` at a time, with the descriptor of its file; by a pipe
the process sends ``Reply`` lines. A process has read hostile bytes: its lines are validated before anything in them is
used, and no line may be longer than the limit.
"""

from __future__ import annotations

import base64
import socket
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

import numpy as np
from pydantic import Field, StringConstraints, TypeAdapter

from preread.core.study_header import StudyHeader
from preread.core.types import (
    Caveat,
    Finding,
    Identity,
    ImageStatistics,
    Outcome,
    PixelArray,
    Population,
    Stage,
    StatedTags,
)
from preread.ledger.records import ContentAssessment, FileFacts

MAX_LINE_BYTES = 1024 * 1024
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Setup:
    """First message to a process.

    Attributes:
        bundle: folder of the bundle, as ``path_to_text`` gives it.
        digest: the digest that this bundle must have.
        memory_bytes: address space that the process may use.
        parent_pid: the worker's; when that process ends, so does the process.
        shadow: folder of the bundle for jobs in the shadow, as ``path_to_text`` gives it.
        shadow_digest: the digest that this bundle must have.
        notes_fd: of a pipe into which the process writes the SHA-256 of its file when it has the bytes, in hex.
        preview_fd: of memory shared with the worker, ``previews.MAX_BYTES`` of it, into which it draws previews.
        require_confinement: do not start where the kernel lacks what confines the process.
        vocabulary: TOML, the site's words for views and body parts; see ``core.text.vocabulary``.
        ``pictures``: assess nothing, but answer with each image as a network is trained on it; no bundle is loaded.
    """

    bundle: str
    digest: str
    memory_bytes: int
    max_file_bytes: int
    max_pixels: int
    parent_pid: int
    shadow: str | None = None
    shadow_digest: str = ""
    notes_fd: int = -1
    preview_fd: int = -1
    require_confinement: bool = False
    pictures: bool = False
    vocabulary: str = ""

    def of_shadow(self) -> Setup:
        """Return the message with the bundle of the shadow as the bundle."""
        return replace(self, bundle=self.shadow or "", digest=self.shadow_digest)


@dataclass(frozen=True, slots=True)
class Job:
    """File version to read; ``root`` and ``path`` as of ``path_to_text``.

    The worker opens it and sends its descriptor along; the process gets the path, which may name the patient, and not
    the root.

    Attributes:
        preview: draw one. At the first attempt only, so that no preview can cost a file its outcome.
        shadow: assess it with the bundle in the shadow.
        ask: send ``ReplyKind.READ`` before the assessment, and wait for ``Known``.
        threads: most threads of a decoder that can use several.
        assume_age: see ``Declared``.
    """

    root: str
    path: str
    size_bytes: int
    mtime_ns: int
    population: Population
    path_pattern: str | None
    preview: bool = False
    shadow: bool = False
    ask: bool = True
    threads: int = 1
    assume_age: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """Answer to ``ReplyKind.READ``: whether the content was assessed before.

    Then header and intended use are checked alone.

    ``forgotten``: they were purged, so that nothing more is looked at, and the report has that code.
    ``preview``: one is kept already.
    """

    known: bool
    forgotten: bool = False
    preview: bool = False


class ReplyKind(StrEnum):
    """Kinds of ``Reply``, with their fields."""

    READY = "ready"  # lacking: the process is confined and waits for a job
    UNFIT = "unfit"  # code, message: the process cannot start
    READ = "read"  # sha256: the bytes are in memory and the process waits for ``Known``
    DONE = "done"  # report, last: the file has its outcome
    FAULT = "fault"  # code, message: the machine or the share is at fault
    BROKE = "broke"  # code, message: the process is at fault and ends


@dataclass(frozen=True, slots=True)
class Content:
    """See ``ContentAssessment``; the map as nested lists."""

    findings: tuple[Finding, ...]
    pixel_caveats: tuple[Caveat, ...]
    decoder: str
    activation_map: list[list[float]]
    picture: ImageStatistics


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of one file.

    Attributes:
        sha256: ``None`` only where the file was too large to be read.
        code: why it is refused or unreadable.
        reason: the same in words.
        content: ``None`` unless it was assessed just now.
        preview_dropped: a preview was asked for and could not be kept.
        preview_bytes: so many bytes of a preview lie in the shared memory.
        stages_ms: how long each stage took that came to its end.
        study_header: of a DICOM file whose header could be read; its limits are checked as the line is parsed.
        tags: what the image states about age, view, body part, modality and species; ``None`` if it was not checked.
        shrunk: where ``Setup.pictures`` asks for it, uint8 of ``preprocessing.TRAINING_SPEC`` in Base64.
    """

    outcome: Outcome
    sha256: Sha256 | None
    ms: Milliseconds = 0.0
    identity: Identity = field(default_factory=Identity)
    format: str = ""
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    gate_caveats: tuple[Caveat, ...] = ()
    code: str | None = None
    reason: str = ""
    content: Content | None = None
    preview_dropped: bool = False
    preview_bytes: Annotated[int, Field(ge=0)] = 0
    stages_ms: dict[Stage, Milliseconds] = field(default_factory=dict)
    shrunk: str | None = None
    study_header: StudyHeader | None = None
    tags: StatedTags | None = None

    def facts(self, population: Population) -> FileFacts | None:
        """Return the facts of the file version; ``None`` if it was not read."""
        if self.sha256 is None:
            return None
        return FileFacts(
            sha256=self.sha256,
            identity=self.identity,
            format=self.format,
            transfer_syntax_uid=self.transfer_syntax_uid,
            rows=self.rows,
            columns=self.columns,
            population=population,
            gate_caveats=self.gate_caveats,
            ms=self.ms,
            study_header=self.study_header,
        )

    def picture(self, rows: int, columns: int) -> PixelArray:
        """Return the pixels of a job for training: uint8 [rows, columns].

        Raises:
            ValueError: the report has none, or of another size.
        """
        pixels = np.frombuffer(base64.b64decode(self.shrunk or "", validate=True), np.uint8)
        return pixels.reshape(rows, columns)

    def assessment(self) -> ContentAssessment | None:
        """Return the assessment of the content; ``None`` if it was not assessed."""
        if self.content is None:
            return None
        return ContentAssessment(
            findings=self.content.findings,
            pixel_caveats=self.content.pixel_caveats,
            decoder=self.content.decoder,
            activation_map=np.array(self.content.activation_map, dtype=np.float32),
            statistics=self.content.picture,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """Message of a process, one line.

    Attributes:
        lacking: what of the confinement this machine does not have; see ``confinement``.
        last: the process ends now, since a decoder failed in it.
    """

    kind: ReplyKind
    code: str | None = None
    message: str = ""
    sha256: Sha256 | None = None
    report: Report | None = None
    lacking: tuple[str, ...] = ()
    last: bool = False


_REPLY = TypeAdapter(Reply)
_SETUP = TypeAdapter(Setup)
_JOB = TypeAdapter(Job)
_KNOWN = TypeAdapter(Known)


def encode_message(message: Setup | Job | Known | Reply) -> bytes:
    """Encode a message of worker or inference process as a JSON line."""
    match message:
        case Setup():
            return _SETUP.dump_json(message) + b"\n"
        case Job():
            return _JOB.dump_json(message) + b"\n"
        case Known():
            return _KNOWN.dump_json(message) + b"\n"
        case Reply():
            return _REPLY.dump_json(message) + b"\n"


def decode_reply(line: bytes) -> Reply:
    """Decode and validate a message of an inference process.

    Raises:
        ValueError: it is invalid.
    """
    return _REPLY.validate_json(line)


def decode_setup(line: bytes) -> Setup:
    """Decode the worker's first message to an inference process.

    Raises:
        ValueError: it is invalid.
    """
    return _SETUP.validate_json(line)


def decode_job(line: bytes) -> Job:
    """Decode the worker's job for an inference process.

    Raises:
        ValueError: it is invalid.
    """
    return _JOB.validate_json(line)


def decode_known(line: bytes) -> Known:
    """Decode the worker's answer about a known content.

    Raises:
        ValueError: it is invalid.
    """
    return _KNOWN.validate_json(line)


def path_to_text(path: bytes) -> str:
    """Convert a path to text for JSON messages: one character a byte."""
    return path.decode("latin-1")


def text_to_path(text: str) -> bytes:
    """Convert a text from ``path_to_text`` back to the path."""
    return text.encode("latin-1")


def send_message(control: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message and its file descriptors, without waiting.

    ``socket.send_fds`` of Python 3.11 drops its flags.

    Raises:
        OSError: the other end is gone, or does not read.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    control.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive_message(control: socket.socket, most_bytes: int, flags: int = 0) -> tuple[bytes, int | None]:
    """Receive a message and its file descriptor; no bytes at the end.

    Raises:
        OSError: as the flags have it.
    """
    space = socket.CMSG_LEN(array("i").itemsize)
    message, rights, _, _ = control.recvmsg(most_bytes, space, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return message, array("i", content)[0]
    return message, None

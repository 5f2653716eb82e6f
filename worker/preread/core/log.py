"""Logging: static events with allow-listed fields, as text or JSON Lines.

How to log::

    _LOG = logging.getLogger(__name__)
    _LOG.info("file_done", extra={"file_id": 7, "outcome": "assessed", "ms": 41.2})

The message is the event's name and never contains values; its arguments are not written. A field that is not in
``FIELDS`` is left out and only its name is written, so that no tag of an image reaches a log by mistake. ``path`` is
written at debug level only. Messages of other packages may quote values (pydicom: tags, SQLAlchemy: parameters,
watchdog: paths), so only their logger, level and place are kept. Of an exception only class, code and frames are kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from preread.core.errors import PrereadError
from preread.core.text.escaping import escape

MAX_TEXT_CHARS = 300
MAX_LINE_CHARS = 4_000
_MAX_FRAMES = 12

FIELDS = frozenset(
    """
    address attempts audit_head backlog bundle call code count counts delay_s dropped duration_s errno error
    exit_code fenced file_id files fs_type mode ms outcome owed pid restarts retry root_id roots schema_revision
    seen signal_name slots state tries watcher why worker_id
    """.split()  # noqa: SIM905  a list of one word a line would be longer than the rest of this file
)
DEBUG_FIELDS = frozenset({"path"})
# These quote no values of images: alembic names its own revisions.
_TRUSTED = ("preread", "preread_training")
_TEMPLATES_TRUSTED = ("alembic",)
_RESERVED = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}


def configure_logging(
    *, level: str = "info", json_lines: bool | None = None, stream: TextIO | None = None, quiet: bool = False
) -> None:
    """Configure this process's logging to one stream; may be repeated.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        json_lines: write JSON Lines, else text; ``None`` writes text to a terminal only.
        stream: where lines are written; ``None`` is standard error.
        quiet: raise the level to warning, for commands whose result is what they print.
    """
    target = stream if stream is not None else sys.stderr
    terminal = target.isatty()
    handler = _Handler(target)
    handler.to_journal = _is_journal(target)
    as_json = not terminal if json_lines is None else json_lines
    handler.setFormatter(JSONFormatter() if as_json else HumanFormatter(colour=terminal))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    # other packages log warnings and errors only, whatever our level
    root.setLevel(logging.WARNING)
    own = max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING if quiet else 0)
    for name in _TRUSTED:
        logging.getLogger(name).setLevel(own)
    # in its debug mode pydicom installs a handler of its own; its lines must pass through ours
    logging.getLogger("pydicom").handlers.clear()
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the event and the allowed fields of a log record."""
    own = _is_of(record.name, _TRUSTED)
    found: dict[str, Any] = {}
    if own or (_is_of(record.name, _TEMPLATES_TRUSTED) and isinstance(record.msg, str)):
        found["event"] = _bounded(record.msg if own else record.getMessage())
    else:
        found["event"] = "library_message"
        found["place"] = f"{record.module}:{record.lineno}"
        if record.name == "py.warnings" and isinstance(record.msg, str):
            found["warning"] = _bounded(record.msg)  # the class alone; see _log_warning
    dropped = []
    extras = {name: value for name, value in record.__dict__.items() if name not in _RESERVED} if own else {}
    for name, value in extras.items():
        if name in FIELDS or (name in DEBUG_FIELDS and record.levelno <= logging.DEBUG):
            found[name] = _bounded(value)
        elif name not in DEBUG_FIELDS:
            dropped.append(name)
    if dropped:
        found["left_out"] = [_bounded(name) for name in sorted(dropped)[:20]]
    if record.exc_info and record.exc_info[1] is not None:
        found |= describe_exception(record.exc_info[1])
    return found


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Return class, code and frames of an exception, without its message.

    Returns:
        ``exception`` (class), ``at`` (the last 12 frames as ``file:line function``), and, if there are any, ``code``,
        ``errno`` and ``cause`` (class).
    """
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    described: dict[str, Any] = {
        "exception": type(error).__qualname__,
        "at": [f"{_module_file(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, PrereadError):
        described["code"] = error.code
    if isinstance(error, OSError) and error.errno is not None:
        described["errno"] = error.errno
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = type(cause).__qualname__
    return described


class JSONFormatter(logging.Formatter):
    """Formatter of log records as one line of JSON: ASCII, time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line = json.dumps(head | record_fields(record), default=str)
        if len(line) > MAX_LINE_CHARS:
            line = json.dumps(head | {"event": record_fields(record)["event"], "left_out": ["line too long"]})
        return line


class HumanFormatter(logging.Formatter):
    """Formatter of log records as time, level, event and ``field=value``.

    Control characters are escaped.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        fields = record_fields(record)
        event = fields.pop("event")
        level = f"{record.levelname.lower():<7}"
        if self._colour:
            level = f"\x1b[{_COLOURS.get(record.levelname, '0')}m{level}\x1b[0m"
        values = "".join(f"  {name}={_human(value)}" for name, value in fields.items() if value is not None)
        place = "" if _is_of(record.name, _TRUSTED) else f"  logger={escape(record.name)}"
        line = f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S} {level} {event}{values}{place}"
        return line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…"


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records; never raises, never prints their values on failure.

    Lines that cannot be written (full disk) are counted; the next line that can be is followed by their number.
    """

    to_journal = False
    _lost = 0

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return f"<{_PRIORITIES.get(record.levelname, 6)}>{line}" if self.to_journal else line

    def emit(self, record: logging.LogRecord) -> None:
        before = self._lost
        super().emit(record)
        if before and self._lost == before:
            self._lost = 0
            lost = logging.LogRecord("preread.core.log", logging.WARNING, "", 0, "log_lines_lost", None, None)
            lost.count = before
            super().emit(lost)
            if self._lost:
                self._lost += before

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  named by logging
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError | ValueError):
            return  # the reader of the log has closed it: the work continues
        self._lost += 1
        if self._lost == 1 and self.stream is not sys.__stderr__:
            with contextlib.suppress(OSError, ValueError):
                print(f"log line lost: {type(error).__name__}", file=sys.__stderr__)


def _is_journal(stream: TextIO) -> bool:
    """Return whether a stream is systemd's journal (it reads priorities).

    See systemd.exec(5), ``JOURNAL_STREAM``, and sd-daemon(3).
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_of(logger: str, packages: tuple[str, ...]) -> bool:
    return logger.partition(".")[0] in packages


def _bounded(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(_bounded(str(key))): _bounded(item) for key, item in list(value.items())[:40]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(item) for item in list(value)[:40]]
    text = escape(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"


def _human(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=False) if " " in text and isinstance(value, str) else text


def _module_file(filename: str) -> str:
    # the last two parts identify the module; the rest is specific to this machine
    return "/".join(filename.replace("\\", "/").split("/")[-2:])


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    record = logging.LogRecord("py.warnings", logging.WARNING, filename, lineno, category.__name__, None, None)
    logging.getLogger("py.warnings").handle(record)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("preread").critical("uncaught_exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)

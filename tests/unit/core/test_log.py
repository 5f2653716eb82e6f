"""A log must tell the operator everything and a reader of the log nothing about a patient."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core import log
from preread.core.errors import TruncatedPixels
from preread.core.log import DEBUG_FIELDS, FIELDS, MAX_LINE_CHARS, MAX_TEXT_CHARS, HumanFormatter, JSONFormatter

NAME = "Mustermann^Erika"


@pytest.fixture
def log_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stream that set_up may log to; what set_up changes in the process is put back."""
    for target, name in [(sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")]:
        monkeypatch.setattr(target, name, getattr(target, name))
    loggers = [logging.getLogger(name) for name in (None, "preread", "preread_training")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield io.StringIO()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def lines(stream: Any) -> Any:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    logging.getLogger("preread.runner.service").info(
        "file_done", extra={"file_id": 7, "ms": 41.25, "outcome": "assessed"}
    )
    (line,) = lines(log_stream)
    assert line["event"] == "file_done"
    assert (line["file_id"], line["ms"], line["outcome"]) == (7, 41.25, "assessed")
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("named", [True, False])
def test_systemds_journal_gets_each_lines_priority_and_nobody_else_does(
    log_stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + (not named)}")
        log.configure_logging(json_lines=True, stream=journal)
        for level in ("info", "warning", "error", "critical"):
            getattr(logging.getLogger("preread.runner.service"), level)("share_down")
        journal.seek(0)
        written = journal.read().splitlines()
    heads = ["<6>", "<4>", "<3>", "<2>"] if named else [""] * 4
    assert [line.partition("{")[0] for line in written] == heads
    assert {json.loads(line[line.index("{") :])["event"] for line in written} == {"share_down"}


def test_a_field_off_the_list_is_left_out_and_only_its_name_is_told(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    logging.getLogger("preread.runner.service").info("file_done", extra={"file_id": 7, "patient_name": NAME})
    assert NAME not in log_stream.getvalue()
    assert lines(log_stream)[0]["left_out"] == ["patient_name"]


_values = st.recursive(
    st.just(NAME),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, min_size=1),
    max_leaves=4,
)


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True), _values, min_size=1, max_size=6),
    st.sampled_from(["preread", "preread.runner.pool", "pydicom", "sqlalchemy.engine", "py.warnings"]),
    st.sampled_from([logging.INFO, logging.ERROR]),
)
def test_no_value_leaves_but_by_a_field_on_the_list(extras: Any, logger: Any, level: Any) -> None:
    record = logging.LogRecord(logger, level, __file__, 1, "event", (NAME,), (ValueError, ValueError(NAME), None))
    allowed = {name for name in extras if name in FIELDS} if logger.startswith("preread") else set()
    record.__dict__.update({name: value for name, value in extras.items() if name not in allowed})
    for formatter in (JSONFormatter(), HumanFormatter()):
        assert NAME not in formatter.format(record)
    for name in DEBUG_FIELDS:
        record.__dict__[name] = NAME
    assert NAME not in JSONFormatter().format(record)


def test_arguments_of_a_message_are_never_written(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    logging.getLogger("preread.runner.pool").warning("odd tag %s", NAME)
    assert NAME not in log_stream.getvalue()


def test_paths_are_written_at_debug_only(log_stream: Any) -> None:
    log.configure_logging(level="debug", json_lines=True, stream=log_stream)
    target = logging.getLogger("preread.share.root_monitor")
    target.info("seen", extra={"path": "/films/Mustermann.dcm"})
    target.debug("seen", extra={"path": "/films/Mustermann.dcm"})
    at_info, at_debug = lines(log_stream)
    assert "path" not in at_info
    assert at_debug["path"] == "/films/Mustermann.dcm"


@pytest.mark.parametrize("logger", ["pydicom", "sqlalchemy.engine", "watchdog.observers", "PIL.Image", "unheard_of"])
def test_other_packages_messages_are_replaced_by_their_place(log_stream: Any, logger: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    target = logging.getLogger(logger)
    before = target.level
    target.setLevel(
        logging.WARNING
    )  # preread.imaging.elements silences pydicom altogether; the log must not rely on it
    try:
        target.warning(f"Invalid value: '{NAME}'")
    finally:
        target.setLevel(before)
    assert NAME not in log_stream.getvalue()
    (line,) = lines(log_stream)
    assert line["event"] == "library_message"
    assert line["logger"] == logger
    assert line["place"].startswith(f"{Path(__file__).stem}:")


def test_a_warning_keeps_its_class_and_loses_its_text(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # catch_warnings puts back what set_up installed, so it is asked for again inside
        warnings.showwarning = log._log_warning
        warnings.warn(f"the value {NAME!r} is too long", UserWarning, stacklevel=1)
    assert NAME not in log_stream.getvalue()
    assert lines(log_stream)[0]["warning"] == "UserWarning"


def test_an_exception_keeps_class_code_and_places_and_loses_its_message(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    try:
        try:
            raise ValueError(f"bad {NAME}")
        except ValueError as error:
            raise TruncatedPixels(f"in {NAME}") from error
    except TruncatedPixels:
        logging.getLogger("preread.runner.pool").exception("file_failed")
    assert NAME not in log_stream.getvalue()
    (line,) = lines(log_stream)
    assert (line["exception"], line["code"], line["cause"]) == ("TruncatedPixels", "truncated", "ValueError")
    assert Path(__file__).name in line["at"][-1]


def test_no_line_grows_beyond_its_bound(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    target = logging.getLogger("preread.share.root_monitor")
    target.info("seen", extra={"why": "x" * 100_000})
    target.info("seen", extra={"counts": {f"state{number}": "y" * 400 for number in range(400)}})
    logging.getLogger("watchdog").warning("z" * 140_000)
    written = log_stream.getvalue().splitlines()
    assert len(written) == 3
    assert max(map(len, written)) <= MAX_LINE_CHARS
    assert len(json.loads(written[0])["why"]) == MAX_TEXT_CHARS


def test_a_human_line_leaves_out_what_is_not_there(log_stream: Any) -> None:
    log.configure_logging(json_lines=False, stream=log_stream)
    logging.getLogger("preread.runner.dispatcher").info(
        "file_done", extra={"file_id": 7, "code": None, "why": "two words"}
    )
    assert log_stream.getvalue().endswith('file_done  file_id=7  why="two words"\n')


def test_a_human_line_cannot_steer_the_terminal(log_stream: Any) -> None:
    log.configure_logging(json_lines=False, stream=log_stream)
    logging.getLogger("preread.share.root_monitor").info("seen", extra={"why": "a\x1b[2Jb\nc\u202e"})
    (line,) = log_stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert r"a\x1b[2Jb\x0ac\u202e" in line


def test_setting_up_again_does_not_write_twice(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    log.configure_logging(json_lines=True, stream=log_stream)
    logging.getLogger("preread").info("started")
    assert len(lines(log_stream)) == 1


def test_quiet_keeps_warnings(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream, quiet=True)
    logging.getLogger("preread").info("started")
    logging.getLogger("preread").warning("share_down")
    assert [line["event"] for line in lines(log_stream)] == ["share_down"]


def test_an_uncaught_exception_is_logged_without_its_message(log_stream: Any) -> None:
    log.configure_logging(json_lines=True, stream=log_stream)
    sys.excepthook(ValueError, ValueError(NAME), None)
    assert NAME not in log_stream.getvalue()
    assert lines(log_stream)[0]["event"] == "uncaught_exception"


def test_a_stream_that_nobody_reads_stops_nothing(log_stream: Any) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log.configure_logging(json_lines=True, stream=Closed())
    logging.getLogger("preread").info("started")


def test_a_full_disk_costs_log_lines_and_says_how_many(log_stream: Any) -> None:
    class Disk(io.StringIO):
        full = False

        def write(self, text: Any) -> Any:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    disk = Disk()
    log.configure_logging(json_lines=True, stream=disk)
    logger = logging.getLogger("preread")
    disk.full = True
    for _ in range(3):
        logger.info("file_done")
    disk.full = False
    logger.info("worker_stopped")
    logger.info("again")
    assert [(line["event"], line.get("count")) for line in lines(disk)] == [
        ("worker_stopped", None),
        ("log_lines_lost", 3),
        ("again", None),
    ]


def test_a_full_disk_below_standard_error_too_stops_nothing(log_stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "__stderr__", Full())
    for stream in (Full(), sys.__stderr__):
        log.configure_logging(json_lines=True, stream=stream)
        logging.getLogger("preread").info("started")


def _keys(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """Yield the keys of a dictionary expression; of a name, those of what the function assigns to it."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                yield from _keys(value, function)
            else:
                assert isinstance(key, ast.Constant), f"line {key.lineno}: the name of a log field is computed"
                yield str(key.value)
    elif isinstance(node, ast.BinOp):
        yield from _keys(node.left, function)
        yield from _keys(node.right, function)
    else:
        assert isinstance(node, ast.Name), f"line {node.lineno}: log fields come from {ast.unparse(node)}"
        for line in (one for one in ast.walk(function) if isinstance(one, ast.Assign)):
            for target in line.targets:
                if isinstance(target, ast.Name) and target.id == node.id:
                    yield from _keys(line.value, function)
                elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == node.id:
                    assert isinstance(target.slice, ast.Constant)
                    yield str(target.slice.value)


def _fields_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("_LOG."):
                    for argument in call.keywords:
                        if argument.arg == "extra":
                            yield from _keys(argument.value, function)


def test_every_allowed_field_is_logged_and_no_other() -> None:
    house = Path(__file__).parents[3]
    modules = [path for folder in ("worker", "model_training") for path in (house / folder).rglob("*.py")]
    assert {name for path in modules for name in _fields_in(path)} == FIELDS | DEBUG_FIELDS

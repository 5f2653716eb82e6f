"""Telling a living process from a dead one and from a later one with its number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from preread.ledger import registry


def test_this_process_lives_and_keeps_its_token() -> None:
    token = registry.process_token(os.getpid())
    assert token
    assert registry.process_token(os.getpid()) == token


def test_a_dead_process_has_no_token_even_before_it_is_reaped() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert registry.process_token(process.pid) is None
    process.wait()
    assert registry.process_token(process.pid) is None


def test_a_command_with_parentheses_and_spaces_is_read_right(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert (registry.process_token(process.pid) or "").isdigit()
        process.communicate(b"\n")


def test_without_proc_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_PROC", tmp_path)
    assert registry.process_token(os.getpid()) == ""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert registry.process_token(process.pid) is None
    assert "\n" not in registry.this_host()


def test_the_host_is_named_with_its_boot() -> None:
    here = registry.this_host()
    there = subprocess.run(
        [sys.executable, "-c", "from preread.ledger import registry; print(registry.this_host())"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert there.stdout.strip() == here
    assert len(here.split(" ")) == 3

"""The seccomp filters, run here by an interpreter of classic BPF: for both machines, whatever is called."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.runner.confine import syscalls
from preread.runner.confine.syscalls import ALLOW, KILL_PROCESS, MACHINES, REFUSE, TELL, Machine

PID = 4711
ENOSYS = 0x00050000 | errno.ENOSYS
WORDS = st.integers(0, 2**64 - 1)


def verdict(code: bytes, number: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter on one call, as the kernel does (``Documentation/networking/filter``)."""
    data = struct.pack(
        "<iIQ6Q", number - 2**32 if number >= 2**31 else number, arch, 0, *arguments, *[0] * (6 - len(arguments))
    )
    program = list(struct.iter_unpack("=HBBI", code))
    assert len(program) <= 4096
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = program[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
        at += if_true if holds else if_false


def both(machine: Machine, number: int, arguments: tuple[int, ...] = (), *, otherwise: int = TELL) -> int:
    """Return what the two filters together make of a call: the kernel takes the stricter answer."""
    filters = (syscalls.build_allow_list(machine, PID, otherwise), syscalls.build_closing_filter(machine))
    answers = [verdict(code, number, machine.audit_arch, arguments) for code in filters]
    # the lower the action as a signed number, the stricter
    return min(answers, key=lambda action: action - 2**32 if action >= 2**31 else action)


MACHINE = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


@MACHINE
def test_every_number_is_allowed_told_or_ends_the_process(machine: Machine) -> None:
    column = machine.column
    allowed = {numbers[column] for numbers in syscalls._ALLOWED.values()}
    killed = {numbers[column] for numbers in syscalls._KILLED.values()}
    special = {
        one[column] for one in (syscalls._MMAP, syscalls._MPROTECT, syscalls._CLONE, syscalls._TGKILL, syscalls._CLONE3)
    }
    prctl = syscalls._WHILE_CONFINING["prctl"][column]
    assert not allowed & killed
    for number in set(range(600)) - special - {prctl}:
        expected = ALLOW if number in allowed else KILL_PROCESS if number in killed else TELL
        assert both(machine, number) == expected, syscalls.name_system_call(number, machine)
    assert both(machine, prctl) == REFUSE


@MACHINE
@given(number=st.integers(600, 2**32 - 1), arguments=st.tuples(*[WORDS] * 6))
def test_a_number_that_no_table_has_is_never_allowed(machine: Machine, number: int, arguments: tuple[int, ...]) -> None:
    ends = machine.has_x32 and number >= 0x40000000
    assert both(machine, number, arguments) == (KILL_PROCESS if ends else TELL)


@MACHINE
@given(number=st.integers(0, 2**31 - 1), arch=st.integers(0, 2**32 - 1))
def test_the_call_of_another_architecture_ends_the_process(machine: Machine, number: int, arch: int) -> None:
    if arch != machine.audit_arch:
        code = syscalls.build_allow_list(machine, PID, TELL)
        assert verdict(code, number, arch) == KILL_PROCESS


@MACHINE
@given(flags=WORDS, rest=st.tuples(*[WORDS] * 4))
def test_only_a_thread_as_the_c_library_starts_it_may_be_started(
    machine: Machine, flags: int, rest: tuple[int, ...]
) -> None:
    number = syscalls._CLONE[machine.column]
    assert both(machine, number, (flags, *rest)) == (ALLOW if flags in syscalls._THREAD_FLAGS else TELL)
    assert both(machine, number, (0x3D0F00, *rest)) == ALLOW
    assert both(machine, number, (0x3D0F00 | 0x10000000, *rest)) == TELL
    assert both(machine, syscalls._CLONE3[machine.column], rest) == ENOSYS


@MACHINE
@given(protection=WORDS, rest=st.tuples(*[WORDS] * 3))
def test_no_memory_becomes_executable(machine: Machine, protection: int, rest: tuple[int, ...]) -> None:
    for pair in (syscalls._MMAP, syscalls._MPROTECT):
        expected = TELL if protection & 4 else ALLOW
        assert both(machine, pair[machine.column], (rest[0], rest[1], protection, rest[2])) == expected


@MACHINE
@given(pid=WORDS)
def test_a_process_signals_its_own_threads_alone(machine: Machine, pid: int) -> None:
    number = syscalls._TGKILL[machine.column]
    # the kernel looks at the lower half alone, as the filter does
    assert both(machine, number, (pid, 1, 6)) == (ALLOW if pid % 2**32 == PID else TELL)
    assert both(machine, number, (PID, 1, 6)) == ALLOW


@MACHINE
def test_where_nobody_can_be_told_a_call_is_refused_in_silence(machine: Machine) -> None:
    unknown = syscalls._REFUSED["openat"][machine.column]
    assert unknown is not None
    assert both(machine, unknown, otherwise=REFUSE) == REFUSE


@MACHINE
def test_the_calls_have_names(machine: Machine) -> None:
    assert syscalls.name_system_call(syscalls._CLONE[machine.column], machine) == "clone"
    assert syscalls.name_system_call(599, machine) == "number 599"
    for table in (syscalls._ALLOWED, syscalls._KILLED, syscalls._REFUSED):
        for name, numbers in table.items():
            if (number := numbers[machine.column]) is not None:
                assert syscalls.name_system_call(number, machine) == name

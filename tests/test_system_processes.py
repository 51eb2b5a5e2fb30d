"""Work in several processes: every result, the error of a job as it was, and one message where a process was killed."""

import multiprocessing
import os
import signal

import pytest

from mrirecon.errors import ConfigError, InputError
from mrirecon.system.interrupts import raise_ctrl_c
from mrirecon.system.processes import in_processes, num_cpus

FORK = multiprocessing.get_context("fork")
_started: list[int] = []


def double(number: int) -> int:
    if number < 0:
        raise ConfigError("negative")
    return 2 * number


def setting(job: int) -> tuple[int, bool]:
    return len(_started), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def remember_start() -> None:
    _started.append(os.getpid())


def end(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_done_once() -> None:
    assert sorted(in_processes(double, range(9), 2, FORK, "")) == list(range(0, 18, 2))


def test_an_error_of_a_job_arrives_as_it_was() -> None:
    with pytest.raises(ConfigError, match="negative"):
        list(in_processes(double, [1, -1], 2, FORK, ""))


def test_a_process_is_started_as_asked_and_leaves_ctrl_c_to_the_one_that_waits() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        assert list(in_processes(setting, [0], 2, FORK, "", remember_start)) == [(1, True)]
        assert _started == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_process_is_the_given_message() -> None:
    with pytest.raises(InputError, match=r"^set: was killed$"):
        list(in_processes(end, [1, 2], 2, FORK, "set: was killed"))


def test_the_cpus_are_those_of_this_process_not_of_the_machine() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not tie processes to CPUs")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert num_cpus() == len(before)


def test_ctrl_c_raises_again_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, lambda *_: None)
        raise_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

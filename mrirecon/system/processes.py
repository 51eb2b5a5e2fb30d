"""Work shared out to processes: how many suit, results as they come, and one message where a process was killed."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import TypeVar

from mrirecon.errors import InputError
from mrirecon.system.interrupts import leave_ctrl_c

Job = TypeVar("Job")
Result = TypeVar("Result")


def num_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_processes: int,
    context: BaseContext,
    killed: str,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """What `work` gives for every job, in the order they are done.

    start: called once in every process. killed: the message of the InputError that is raised where one was killed.
    """
    pool = ProcessPoolExecutor(min(num_processes, len(jobs)), context, _begin, (start,))
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(killed) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(start: Callable[[], None] | None) -> None:
    leave_ctrl_c()
    if start:
        start()

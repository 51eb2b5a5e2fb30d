"""Progress of counted work, and durations in words."""

import atexit
import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class CountProgress:
    """Shows counted work that is not training: a bar on a terminal, elsewhere a line at most every `every` seconds.

    Called as `progress(what, done, total)`.
    """

    def __init__(self, every: float = 5.0) -> None:
        self.every = every
        self._last = time.perf_counter()
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
        )
        self._tasks: dict[str, TaskID] = {}
        atexit.register(self._bars.stop)  # an error on the way must not leave the terminal without its cursor

    def __call__(self, what: str, done: int, total: int) -> None:
        if sys.stdout.isatty():
            self._draw(what, done, total)
        elif time.perf_counter() - self._last >= self.every or (done == total and what in self._tasks):
            self._last = time.perf_counter()
            self._tasks[what] = TaskID(0)
            print(f"{what}  {done}/{total}", flush=True)

    def _draw(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.start()
        self._bars.update(self._tasks[what], completed=done)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))
            self._bars.stop()


def duration(seconds: float) -> str:
    """In words.  -> "40 s", "3 min", "2 h 10 min" """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

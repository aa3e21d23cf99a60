"""How a run tells what it is doing; the loop knows only this interface."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

LINE_EVERY_S = 10.0


class Reporter(Protocol):
    """Told of progress by rank 0."""

    def start(self, ticks: int, done: int) -> None:
        """The run goes from `done` to `ticks`."""

    def tick(self, done: int) -> None:
        """`done` ticks are done."""

    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        """The metrics of each learner on its validation split after so many epochs, of those that were fit for it."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def stop(self) -> None:
        """No more ticks, for whatever reason."""


class Silent(Reporter):
    """Says nothing: for ranks other than the first, and for tests."""

    @override
    def start(self, ticks: int, done: int) -> None:
        return

    @override
    def tick(self, done: int) -> None:
        return

    @override
    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        return

    @override
    def say(self, text: str) -> None:
        return

    @override
    def stop(self) -> None:
        return


class Rate(ProgressColumn):
    """Ticks a second."""

    @override
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} ticks/s" if speed else "- ticks/s")


class Unbreakable(Console):
    """A console that falls silent when nobody reads it any more: a run does not end with `| head`."""

    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True


class Terminal(Reporter):
    """A bar with rate and time left on standard error, or a line now and then where that is no terminal."""

    def __init__(self) -> None:
        self._console = Unbreakable(file=sys.stderr, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._ticks = self._from = 0
        self._begin = self._last = 0.0

    @override
    def start(self, ticks: int, done: int) -> None:
        self.stop()  # a worker that was killed could not say so
        self._ticks, self._from = ticks, done
        self._begin = self._last = time.monotonic()
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                Rate(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
            )
            self._progress.start()
            self._bar = self._progress.add_task("training", total=ticks, completed=done)

    @override
    def tick(self, done: int) -> None:
        if self._progress is not None:
            self._progress.update(self._bar, completed=done)
        elif time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            rate = (done - self._from) / (self._last - self._begin)
            left = timedelta(seconds=round((self._ticks - done) / rate)) if rate else "unknown"
            self.say(f"tick {done} of {self._ticks}, {rate:.3g} ticks/s, time left {left}")

    @override
    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        return  # the run says its own choice of them in a line

    @override
    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    @override
    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

"""Progress of a command on standard error: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from mergenet.training.spec import RunSpec
    from tune.ablate import Job
    from tune.search.ledger import Trial

T = TypeVar("T")

LINE_EVERY_S = 10.0


def watched(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """`items`, of which there are `total`, while a user sees how many are done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        return track(items, doing, total, console=console, transient=True)
    return _told(items, total, doing)


def _told(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            click.echo(f"{doing}: {100 * done // total} %", err=True)
        yield item


class ManyRuns:
    """Runs side by side: a line for each that ends, and under them, on a terminal, one bar over the ticks of all."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._done: dict[str, int] = {}
        self._ended = self._total = 0

    def begin(self, jobs: "Sequence[Job]") -> None:
        """These are to run."""
        self._total = len(jobs)
        self._console.print(f"{self._total} run{'s'[: self._total - 1]} to train; starting Ray")
        self._bar = self._progress.add_task(f"0 of {self._total} runs", total=sum(job.ticks for job in jobs))
        self._progress.start()

    def ticked(self, spec: "RunSpec", done: int) -> None:
        """`done` ticks of a run are done."""
        self._done[str(spec.folder)] = done
        self._progress.update(self._bar, completed=sum(self._done.values()))

    def ended(self, job: "Job", failure: str | None) -> None:
        """A run has ended; `failure` says in a line why it did not finish."""
        from mergenet.training.files import shown

        self._ended += 1
        arms = ", ".join(job.arms())
        how = shown(job.spec.folder) if failure is None else f"FAILED: {failure} ({shown(job.spec.folder)})"
        self._console.print(f"{self._ended} of {self._total}  seed {job.spec.seed}  {arms}  {how}", markup=False)
        self._progress.update(self._bar, description=f"{self._ended} of {self._total} runs")
        self.ticked(job.spec, job.ticks)

    def say(self, text: str) -> None:
        """A line for the user."""
        self._console.print(text, markup=False)

    def stop(self) -> None:
        """No more of it, for whatever reason."""
        self._progress.stop()


class ManyTrials:
    """Trials side by side: a line for each that ends, and under them, on a terminal, a bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[ticks]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._done = self._total = 0
        self._ticks: dict[str, int] = {}

    def begin(self, total: int, done: int) -> None:
        """`done` of `total` trials have ended before."""
        self._total, self._done = total, done
        left = total - done
        if left > 0:
            self._console.print(f"{left} trial{'s'[: left - 1]} to run; starting Ray")
        self._bar = self._progress.add_task("trials", total=total, completed=done, ticks="")
        self._progress.start()

    def ticked(self, run: str, ticks: int) -> None:
        """So many ticks of the trial that is recorded in the folder `run` are done."""
        self._ticks[run] = ticks
        self._progress.update(self._bar, ticks=f"{sum(self._ticks.values())} ticks")

    def ended(self, trial: "Trial") -> None:
        """A trial has ended."""
        self._done += 1
        values = ", ".join(f"{value:.4g}" for value in trial.values or ())
        how = values if trial.values else f"{trial.state.upper()}: {trial.reason}"
        point = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in trial.point.items())
        self._console.print(f"{self._done} of {self._total}  trial {trial.number}  {how}  {point}", markup=False)
        self._progress.update(self._bar, completed=self._done)

    def say(self, text: str) -> None:
        """A line for the user."""
        self._console.print(text, markup=False)

    def stop(self) -> None:
        """No more of it, for whatever reason."""
        self._progress.stop()

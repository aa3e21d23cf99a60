"""Many runs of one process each, side by side on whatever Ray has."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from cluster.nodes import queue_here, tell
from mergenet.config import InputError
from mergenet.training.files import wait_until_free
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec

NEWS_EVERY_S = 0.5
MAX_FAILURES = 3


@dataclass(frozen=True)
class Ended:
    """A run that came to its end; `failure` says in one line why, if it was not the right one."""

    spec: RunSpec
    failure: str | None


class Workers:
    """Runs on Ray, inside a `session`: a task each, which Ray gives to a process that has run others before.

    Args:
        most: how many run at once.
        gpu: share of a GPU that each has; 0 for none.
        ticked: told now and then how many ticks of a run are done.
    """

    def __init__(self, most: int, gpu: float, ticked: Callable[[RunSpec, int], None]) -> None:
        self._most = most
        self._gpu = gpu
        self._ticked = ticked
        self._news = queue_here()
        self._running: dict[Any, RunSpec] = {}

    def __len__(self) -> int:
        return len(self._running)

    def has_room(self) -> bool:
        """Whether another run can start now."""
        return len(self) < self._most

    def start(self, spec: RunSpec) -> None:
        """Begins a run, or goes on with it from its newest checkpoint, and so again when its worker dies."""
        import ray

        processors = 0 if self._gpu else spec.threads
        task = ray.remote(num_cpus=processors, num_gpus=self._gpu, max_retries=MAX_FAILURES)(_work)
        self._running[task.remote(spec.as_plain(), self._news)] = spec

    def wait(self) -> Iterator[Ended]:
        """Passes on news for a moment, and gives the runs that ended in it."""
        import ray

        done, _ = ray.wait(list(self._running), timeout=NEWS_EVERY_S)
        specs = {str(spec.folder): spec for spec in self._running.values()}
        for folder, ticks in self._news.get_nowait_batch(self._news.qsize()):
            if folder in specs:
                self._ticked(specs[folder], ticks)
        for reference in done:
            yield Ended(self._running.pop(reference), _failure(reference))


def _failure(reference: Any) -> str | None:
    import ray
    from ray.exceptions import RayError

    try:
        failure: str | None = ray.get(reference)
    except RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return failure


def _work(values: dict[str, Any], news: Any) -> str | None:
    """What a worker runs. A failure comes back as a line: an exception would make Ray begin again."""
    spec = RunSpec.from_plain(values)
    try:
        if spec.remote is None:  # a worker that Ray has given up may still write
            wait_until_free(spec.folder)
        execute(spec, Ticks(news, str(spec.folder)))
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


class Ticks(Silent):
    """A reporter that sends how far a run is to the driver: its folder, and ticks done."""

    def __init__(self, news: Any, folder: str) -> None:
        self._news = news
        self._folder = folder
        self._last = 0.0

    @override
    def tick(self, done: int) -> None:
        if time.monotonic() - self._last >= NEWS_EVERY_S:
            self._last = time.monotonic()
            tell(self._news, (self._folder, done))

"""Watches a sweep while Tune drives it: hears how far trials are, and says when none moves any more."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune import Callback, Stopper
from typing_extensions import override

from tune.search.ledger import Trial

LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Patience:
    """How long a sweep goes on.

    Attributes:
        trials: in all, with those that it has.
        hours: of this call; None for as long as it takes.
        silence_s: seconds without any news of a trial after which something is wrong.
    """

    trials: int
    hours: float | None = None
    silence_s: float = 1800.0


class Stuck(RuntimeError):
    """Nothing moved any more; the text is one line that says what is known of it."""


class Teller(Protocol):
    """Told how a sweep gets on."""

    def begin(self, total: int, done: int) -> None:
        """`done` of `total` trials have ended before."""

    def ticked(self, run: str, ticks: int) -> None:
        """So many ticks of a trial are done."""

    def ended(self, trial: Trial) -> None:
        """A trial has ended."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def stop(self) -> None:
        """No more of it, for whatever reason."""


class Watch(Callback, Stopper):
    """Called by Tune at every step of its own: passes news on, and ends the sweep when it is late, stuck or has failed.

    Args:
        failed: whether it cannot go on for another reason.

    Attributes:
        late: the hours are over.
        stuck: what is known of it, once nothing has moved for too long.
    """

    def __init__(
        self, news: Any, patience: Patience, teller: Teller, failed: Callable[[], bool] = lambda: False
    ) -> None:
        self._news = news
        self._patience = patience
        self._teller = teller
        self._failed = failed
        self._began = self._moved = self._looked = time.monotonic()
        self.late = False
        self.stuck: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a snapshot that nobody reads."""
        return {}

    @override
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        for folder, ticks in self._news.get_nowait_batch(self._news.qsize()):
            self._moved = now
            self._teller.ticked(folder, ticks)
        hours = self._patience.hours
        self.late = hours is not None and now - self._began > hours * 3600
        if now - self._moved > self._patience.silence_s and self.stuck is None:
            self.stuck = _what_is_known(trials, now - self._moved)

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._moved = time.monotonic()

    @override
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._moved = time.monotonic()

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    @override
    def stop_all(self) -> bool:
        return self.late or self.stuck is not None or self._failed()


def _what_is_known(trials: Sequence[Any], seconds: float) -> str:
    import ray

    states = [str(trial.status).lower() for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("running", "pending") if state in states)
    there, free = ray.cluster_resources(), ray.available_resources()
    kinds = [(kind, name) for kind, name in (("CPU", "processors"), ("GPU", "GPUs")) if kind in there]
    room = " and ".join(f"{free.get(kind, 0):g} of {there[kind]:g} {name}" for kind, name in kinds)
    return f"no trial has moved for {seconds:.0f} s ({counts or 'none running'}; free are {room})"

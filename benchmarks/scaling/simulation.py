"""A sweep played on a simulated cluster: discrete events, one driver that serves in turn, nodes that die.

A place asks the driver for a trial and waits; each epoch ends with a report that the trial waits for, as Tune has it; a
checkpoint is written with it. When a node dies its trials lose what they did since, wait at the head of the queue, and
go on elsewhere; the node comes back. Memoryless failures, independent nodes, a driver that never dies.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from .driver_model import Driver

Draw = Callable[[Random], float]


@dataclass(frozen=True)
class Cluster:
    """Where trials run.

    Attributes:
        nodes, places: machines, and trials side by side on each.
        between_failures_s: mean time from one failure of a node to the next; infinite for none.
        repair_s: until a node that died is there again.
        begin_s: of a place, from being given a trial to its first tick.
        first_s: the same of a place that has run no trial before: a process and its imports.
    """

    nodes: int
    places: int = 1
    between_failures_s: float = math.inf
    repair_s: float = 300.0
    begin_s: float = 0.0
    first_s: float = 0.0


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving: of those that get to a rung one in `factor` goes on, as `tune.search` has it."""

    grace: int = 1
    factor: int = 3


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        trials, epochs: of each trial.
        epoch_s: draws the seconds of a trial's epochs, once a trial.
        halving: None runs each to its end.
    """

    trials: int
    epochs: int
    epoch_s: Draw
    halving: Halving | None = None


@dataclass
class Outcome:
    """What came of it, in seconds.

    Attributes:
        makespan_s: from the first draw to the last end.
        drawing_s: from the first draw to the last.
        useful_s: of places, in epochs that counted.
        useful_while_drawing_s: those of them that ended by the last draw.
        lost_s: in epochs that a failure cut short.
        waiting_s: in which a trial or a place waited for the driver.
        driver_s: that the driver was busy.
        epochs, failures: how many.
    """

    places: int
    makespan_s: float = 0.0
    drawing_s: float = 0.0
    useful_s: float = 0.0
    useful_while_drawing_s: float = 0.0
    lost_s: float = 0.0
    waiting_s: float = 0.0
    driver_s: float = 0.0
    epochs: int = 0
    failures: int = 0

    @property
    def utilisation(self) -> float:
        """Share of all places' time in epochs that counted."""
        return self.useful_s / (self.places * self.makespan_s)

    @property
    def steady_utilisation(self) -> float:
        """The same until the last draw: without the end, when places find no more to do."""
        return self.useful_while_drawing_s / (self.places * self.drawing_s)

    @property
    def driver_load(self) -> float:
        """Share of the time in which the driver was busy."""
        return self.driver_s / self.makespan_s


@dataclass
class _Trial:
    epoch_s: float
    quality: float
    done: int = 0


@dataclass
class _Place:
    """`turn` counts what was begun here: an event of an earlier turn is void."""

    node: int
    up: bool = True
    turn: int = 0
    fresh: bool = True
    trial: _Trial | None = None
    epoch_began: float | None = None


def play(
    cluster: Cluster,
    work: Work,
    driver: Driver,
    seed: int = 0,
    ended: Callable[[float], None] = lambda now: None,
) -> Outcome:
    """Plays a sweep to its end; `ended` is told when each trial ended."""
    return _Play(cluster, work, driver, Random(seed), ended).run()


@dataclass
class _Play:
    cluster: Cluster
    work: Work
    driver: Driver
    random: Random
    tell: Callable[[float], None]
    asked: int = 0
    ended: int = 0
    driver_free: float = 0.0
    waiting: deque[_Trial] = field(default_factory=deque)
    rungs: dict[int, list[float]] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Event by event; a later call of the same moment comes later."""
        self.events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.count = 0
        self.outcome = Outcome(self.cluster.nodes * self.cluster.places)
        # one place of each node, then the next: trials are spread
        self.places = [_Place(node) for _ in range(self.cluster.places) for node in range(self.cluster.nodes)]
        for place in self.places:
            self._offer(0.0, place)
        for node in range(self.cluster.nodes):
            self._plan_failure(0.0, node)
        while self.ended < self.work.trials:
            now, _, happen, arguments = heapq.heappop(self.events)
            happen(now, *arguments)
        self.outcome.makespan_s = now
        return self.outcome

    def _at(self, when: float, happen: Callable[..., None], *arguments: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, happen, arguments))

    def _served(self, now: float, seconds: float) -> float:
        """When the driver is done with what it is asked now: it takes one thing after the other."""
        self.driver_free = max(now, self.driver_free) + seconds
        self.outcome.driver_s += seconds
        self.outcome.waiting_s += self.driver_free - now
        return self.driver_free

    # --- a place ---

    def _offer(self, now: float, place: _Place) -> None:
        """A free place asks for a trial: one that lost its node goes first."""
        if self.waiting:
            trial = self.waiting.popleft()
            ready = self._served(now, self.driver.trial_s)
        elif self.asked < self.work.trials:
            trial = _Trial(self.work.epoch_s(self.random), self.random.random())
            ready = self._served(now, self.driver.start_s(self.asked))
            self.asked += 1
            self.outcome.drawing_s, self.outcome.useful_while_drawing_s = now, self.outcome.useful_s
        else:
            return
        place.turn += 1
        place.trial = trial
        begin = self.cluster.first_s if place.fresh else self.cluster.begin_s
        place.fresh = False
        self._at(ready + begin, self._begin_epoch, place, place.turn)

    def _begin_epoch(self, now: float, place: _Place, turn: int) -> None:
        if place.turn != turn or place.trial is None:
            return
        if place.trial.done == self.work.epochs:  # its node died before the driver heard that it had finished
            self._at(self._served(now, self.driver.report_s), self._heard, place, turn)
            return
        place.epoch_began = now
        self._at(now + place.trial.epoch_s, self._end_epoch, place, turn)

    def _end_epoch(self, now: float, place: _Place, turn: int) -> None:
        if place.turn != turn or place.trial is None:
            return
        place.trial.done += 1
        place.epoch_began = None
        self.outcome.epochs += 1
        self.outcome.useful_s += place.trial.epoch_s
        self._at(self._served(now, self.driver.report_s), self._heard, place, turn)

    def _heard(self, now: float, place: _Place, turn: int) -> None:
        """The driver has taken the report: the trial goes on, or ends and makes room."""
        if place.turn != turn or place.trial is None:
            return
        if place.trial.done < self.work.epochs and not self._stops(place.trial):
            self._begin_epoch(now, place, turn)
            return
        self.ended += 1
        self.tell(now)
        place.trial = None
        self._offer(now, place)

    def _stops(self, trial: _Trial) -> bool:
        """Whether a rung's cutoff, that of the trials before, is above this one (Tune's ASHAScheduler)."""
        halving = self.work.halving
        if halving is None or not _is_rung(trial.done, halving):
            return False
        before = sorted(self.rungs.setdefault(trial.done, []))
        self.rungs[trial.done].append(trial.quality)
        return bool(before) and trial.quality < _quantile(before, 1 - 1 / halving.factor)

    # --- failures ---

    def _plan_failure(self, now: float, node: int) -> None:
        if math.isfinite(self.cluster.between_failures_s):
            self._at(now + self.random.expovariate(1 / self.cluster.between_failures_s), self._fail, node)

    def _fail(self, now: float, node: int) -> None:
        """What runs there is begun again from its last epoch, elsewhere where a place is free."""
        self.outcome.failures += 1
        for place in self._of(node):
            if place.trial is not None:
                self.outcome.lost_s += 0.0 if place.epoch_began is None else now - place.epoch_began
                self.waiting.append(place.trial)
            place.up, place.turn, place.trial, place.epoch_began = False, place.turn + 1, None, None
        idle = [place for place in self.places if place.up and place.trial is None]
        for place in idle[: len(self.waiting)]:
            self._offer(now, place)
        self._at(now + self.cluster.repair_s, self._repair, node)

    def _repair(self, now: float, node: int) -> None:
        for place in self._of(node):
            place.up = place.fresh = True
            self._offer(now, place)
        self._plan_failure(now, node)

    def _of(self, node: int) -> list[_Place]:
        return [place for place in self.places if place.node == node]


def _is_rung(epoch: int, halving: Halving) -> bool:
    rung = halving.grace
    while rung < epoch:
        rung *= halving.factor
    return rung == epoch


def _quantile(ordered: list[float], share: float) -> float:
    """Linear between the two values around it, as numpy's."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])

"""The sampler's memory: an Optuna study in this process, which events alone make what it is.

It is rebuilt by living through the events again, so a sweep that died goes on as if it had not. Each draw has random
numbers of its own, keyed by the sweep's seed and how many draws came before.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import Trial as Draw
from optuna.trial import TrialState
from typing_extensions import override

from mergenet import randomness
from tune.search.ledger import Event, Trial
from tune.search.space import Point, Space
from tune.search.sweep import Exhaustive, Nsga2, Qmc, Random, Sweep, Tpe

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Memory:
    """Draws points and is told what came of them."""

    def __init__(self, sweep: Sweep, space: Space, events: Iterable[Event] = ()) -> None:
        self._sweep = sweep
        self._space = space
        directions = ["maximize" if better == "higher" else "minimize" for better in sweep.objectives.values()]
        self._study = optuna.create_study(directions=directions)
        self._drawn = 0
        self._running: dict[int, Draw] = {}
        for event in events:
            self._live_through(event)

    def _live_through(self, event: Event) -> None:
        if event["event"] == "ended":
            self.tell(_ended(event))
            return
        draw, _ = self._draw(event["point"])
        if event["event"] == "refused":
            self.refuse(draw)
        else:
            self.begin(event["trial"], draw)

    def draw(self) -> tuple[Draw, dict[str, Any]]:
        """A new point, which then either begins or is refused."""
        return self._draw({})

    def _draw(self, known: Point) -> tuple[Draw, dict[str, Any]]:
        """A draw that comes out as `known`, as far as it is: the sampler goes through the same motions."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is called experimental, and values outside of a grid
            self._study.sampler = _sampler(self._sweep, self._drawn)
            self._drawn += 1
            if known:
                self._study.enqueue_trial(dict(known))
            draw = self._study.ask()
            return draw, self._space.draw(draw)

    def refuse(self, draw: Draw) -> None:
        """The point is not tried."""
        self._study.tell(draw, state=TrialState.FAIL)

    def begin(self, number: int, draw: Draw) -> None:
        """The point is tried as this trial."""
        self._running[number] = draw

    def tell(self, trial: Trial) -> None:
        """What came of a trial: its values, or how far it got, or that it diverged or failed.

        To Optuna a trial that was stopped is pruned at its last figure, and one that diverged is pruned without any:
        worse than all others. One that failed tells nothing of its point.
        """
        draw = self._running.pop(trial.number)
        if trial.state == "finished" and trial.values is not None:
            self._study.tell(draw, list(trial.values))
        elif trial.state == "failed" or len(self._sweep.objectives) > 1:  # Optuna prunes by one objective alone
            self._study.tell(draw, state=TrialState.FAIL)
        else:
            for epoch, value in trial.curve if trial.state == "stopped" else ():
                draw.report(value, int(epoch))
            self._study.tell(draw, state=TrialState.PRUNED)

    @property
    def study(self) -> optuna.Study:
        """The study as it stands."""
        return self._study


def _ended(event: Event) -> Trial:
    values = None if event["values"] is None else tuple(event["values"])
    curve = tuple((epoch, value) for epoch, value in event["curve"])
    return Trial(event["trial"], {}, {}, "", event["state"], values, event["reason"], curve)


def _sampler(sweep: Sweep, drawn: int) -> BaseSampler:
    seed = randomness.key("sampler", sweep.seed, drawn) % 2**32
    match sweep.sampler:
        case Tpe(startup=startup):
            return TPESampler(n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed)
        case Nsga2(population=population):
            return NSGAIISampler(population_size=population, seed=seed)
        case Qmc():  # one sequence, of which every draw takes the next point
            sequence = randomness.key("sequence", sweep.seed) % 2**32
            others = RandomSampler(seed=seed)
            return QMCSampler(scramble=True, seed=sequence, independent_sampler=others, warn_independent_sampling=False)
        case Exhaustive():
            return _EveryPoint(seed=seed)
        case Random():
            return RandomSampler(seed=seed)


class _EveryPoint(BruteForceSampler):
    """Optuna's, which would end a loop of its own after the last point; ours sees that no new one comes."""

    @override
    def after_trial(self, study: optuna.Study, trial: Any, state: TrialState, values: Any) -> None:
        return

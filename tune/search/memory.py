"""The sampler's memory: an Optuna study in this process, which events alone make what it is.

It is rebuilt by living through the events again, so a sweep that died goes on as if it had not. Each draw has random
numbers of its own, keyed by the sweep's seed and how many draws came before.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as Draw
from typing_extensions import override

from mergenet import randomness
from tune.search.ledger import Event, Trial, ending
from tune.search.space import Space
from tune.search.sweep import Exhaustive, Floats, Ints, Nsga2, Qmc, Random, Sweep, Tpe, Values, label_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Memory:
    """Draws points and is told what came of them; `study` is Optuna's, as it stands."""

    def __init__(self, sweep: Sweep, space: Space, events: Iterable[Event] = ()) -> None:
        self._sweep = sweep
        self._space = space
        self.study = optuna.create_study(directions=directions_of(sweep))
        self._drawn = 0
        self._running: dict[int, Draw] = {}
        for event in events:
            self._live_through(event)

    def _live_through(self, event: Event) -> None:
        if event["event"] == "ended":
            self.tell(Trial(event["trial"], {}, {}, "", **ending(event)))
            return
        draw, point = self.draw()
        if point != event["point"]:  # another version of Optuna drew it
            self.refuse(draw)
            self.study.enqueue_trial(dict(event["point"]))
            draw, _ = self._next()
        if event["event"] == "refused":
            self.refuse(draw)
        else:
            self.begin(event["trial"], draw)

    def draw(self) -> tuple[Draw, dict[str, Any]]:
        """A new point, which then either begins or is refused."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is called experimental
            self.study.sampler = _sampler(self._sweep, self._drawn)
        self._drawn += 1
        return self._next()

    def _next(self) -> tuple[Draw, dict[str, Any]]:
        draw = self.study.ask()
        return draw, self._space.draw(draw)

    def refuse(self, draw: Draw) -> None:
        """The point is not tried."""
        self.study.tell(draw, state=TrialState.FAIL)

    def begin(self, number: int, draw: Draw) -> None:
        """The point is tried as this trial."""
        self._running[number] = draw

    def tell(self, trial: Trial) -> None:
        """What came of a trial: its values, or how far it got, or that it diverged or failed.

        To Optuna a trial that was stopped is pruned at its last figure, and one that diverged is pruned without any:
        worse than all others. One that failed tells nothing of its point.
        """
        draw, state = self._running.pop(trial.number), state_of(self._sweep, trial)
        if state is TrialState.COMPLETE:
            self.study.tell(draw, list(trial.values or ()))
            return
        for epoch, value in reported(self._sweep, trial).items():
            draw.report(value, epoch)
        self.study.tell(draw, state=state)


# --- as Optuna has it ----------------------------------------------------------------------------------------------


def directions_of(sweep: Sweep) -> list[StudyDirection]:
    """Which way each objective is better."""
    ways = {"higher": StudyDirection.MAXIMIZE, "lower": StudyDirection.MINIMIZE}
    return [ways[better] for better in sweep.objectives.values()]


def state_of(sweep: Sweep, trial: Trial) -> TrialState:
    """What a trial that has ended is to Optuna, which prunes by one objective alone."""
    if trial.state == "finished":
        return TrialState.COMPLETE
    return TrialState.FAIL if trial.state == "failed" or len(sweep.objectives) > 1 else TrialState.PRUNED


def reported(sweep: Sweep, trial: Trial) -> dict[int, float]:
    """Epoch -> figure of a trial that was stopped; of one that diverged none counts."""
    known = trial.state == "stopped" and len(sweep.objectives) == 1
    return {int(epoch): value for epoch, value in trial.curve} if known else {}


def frozen(sweep: Sweep, space: Space, trial: Trial) -> FrozenTrial:
    """A trial that has ended, as a study takes it up."""
    return optuna.trial.create_trial(
        state=state_of(sweep, trial),
        values=trial.values,
        params=dict(trial.point),
        distributions={path: distribution_of(space.dimensions[path]) for path in trial.point},
        user_attrs={"trial": trial.number, "state": trial.state, "run": trial.run, "reason": trial.reason},
        intermediate_values=reported(sweep, trial),
    )


def distribution_of(dimension: Ints | Floats | Values) -> BaseDistribution:
    """What Optuna draws it from."""
    match dimension:
        case Ints(low=low, high=high, step=step, log=log):
            return IntDistribution(low, high, log=log, step=step)
        case Floats(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
        case Values(of=values):
            return CategoricalDistribution([label_of(value) for value in values])


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

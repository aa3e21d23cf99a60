"""The sweep as Ray Tune asks for it: which trial comes next, and what is noted when one has ended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from optuna.trial import Trial as Draw
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from typing_extensions import override

from mergenet.config import InputError
from mergenet.training.copies import fetch
from mergenet.training.files import await_finished, read_metrics, shown
from mergenet.training.remote import Away
from tune.search.ledger import Ledger, Trial, asked, ended, refused, trials_of
from tune.search.memory import Memory
from tune.search.plan import SweepPlan
from tune.search.sweep import COST, Asha
from tune.search.trial import AWAY, EPOCH, REASON, STATE, VALUE, Task

TRIES = 200
"""Draws for one trial. A space in which so many in a row are of no use has no more to give."""


class Search(Searcher):
    """Draws trials that can run and are new, notes them in the ledger before they begin, and again when they end.

    Not Ray's `OptunaSearch`: that one tells a stopped trial as complete, takes no finished trials back where options
    have parts, and lives by Tune's snapshots, which are older than what has happened. This one lives by the ledger.

    Args:
        stopped: Tune's name of a trial that the scheduler stopped -> at which epoch; it grows.
        told: called with every trial that has ended.

    Attributes:
        over: how many have ended.
        exhausted: no new point is found any more.
    """

    def __init__(
        self,
        plan: SweepPlan,
        ledger: Ledger,
        memory: Memory,
        stopped: Mapping[str, int],
        told: Callable[[Trial], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._plan = plan
        self._ledger = ledger
        self._memory = memory
        self._stopped = stopped
        self._told = told
        self._say = say
        begun = trials_of(ledger.events)  # those that have not ended come first
        self._pending = [trial for trial in begun if trial.state == "running"]
        self._next = len(begun)
        self._runs = {trial.run: trial.number for trial in begun}
        self._live: dict[str, Trial] = {}
        self.over = 0
        self.exhausted = False
        self.problem: Away | InputError | None = None
        """Why the sweep cannot go on: raised, it would be a trial's failure to Tune, which tries those again."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a snapshot that nobody reads."""
        return {}

    @override
    def suggest(self, trial_id: str) -> Any:
        if self.problem is not None:
            return Searcher.FINISHED
        try:
            trial = self._pending.pop(0) if self._pending else self._new()
        except (Away, InputError) as problem:
            self.problem, trial = problem, None
        if trial is None:
            return Searcher.FINISHED
        self._live[trial_id] = trial
        spec, _ = self._plan.trial(trial.point)
        measured = self._plan.sweep.measured
        return Task(spec, self._plan.setting.workers, measured).as_config()

    def _new(self) -> Trial | None:
        """The next trial, noted; None where nothing new is found."""
        for _ in range(TRIES):
            draw, point = self._memory.draw()
            trial, reason = self._tried(point)
            if trial is not None:
                self._ledger.note(asked(trial))
                return self._begin(draw, trial)
            self._ledger.note(refused(point, reason))
            self._memory.refuse(draw)
        self.exhausted = True
        self._say(f"no new point among {TRIES} drawn: the space has no more to give")
        return None

    def _begin(self, draw: Draw, trial: Trial) -> Trial:
        self._memory.begin(trial.number, draw)
        self._runs[trial.run] = trial.number
        self._next += 1
        return trial

    def _tried(self, point: Mapping[str, Any]) -> tuple[Trial | None, str]:
        """The trial that a point would be, or why it is none."""
        if not self._plan.meets(point):
            return None, "these ports cannot be joined"
        try:
            spec, _ = self._plan.trial(point)
        except InputError as error:
            return None, str(error)
        run = spec.folder.name
        if run in self._runs:
            return None, f"the same as trial {self._runs[run]}"
        return Trial(self._next, point, self._plan.space.changes(point), run), ""

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        return

    @override
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._live.pop(trial_id)
        if result is not None and STATE in result:
            state, reason = result[STATE], result[REASON]
        elif error:
            state, reason = "failed", "its worker died, and so did those that took over"
        elif trial_id in self._stopped:
            state, reason = "stopped", f"by the scheduler, at epoch {self._stopped[trial_id]}"
        else:
            return  # the sweep was stopped, and goes on with this trial
        if state == AWAY:  # and so does one whose record could not be brought
            self.problem = Away(reason)
        if self.problem is not None:
            return
        try:
            over = self._outcome(replace(trial, state=state, reason=reason))
            self._ledger.note(ended(over))
        except (Away, InputError) as problem:
            self.problem = problem
            return
        self._memory.tell(over)
        self.over += 1
        self._told(over)

    def _outcome(self, trial: Trial) -> Trial:
        """The trial with what its record says."""
        spec, plan = self._plan.trial(trial.point)
        fetch(spec.folder)
        result = await_finished(spec.folder) if trial.state == "finished" else None
        measured = self._plan.sweep.measured
        curve = curve_of(read_metrics(spec.folder), measured)
        if trial.state != "finished":
            return replace(trial, curve=curve)
        if result is None:
            raise InputError(f"{shown(spec.folder)}: this run has finished, and its result cannot be seen from here")
        if (reason := divergence(result, self._plan.sweep.objectives)) is not None:
            return replace(trial, state="diverged", reason=reason, curve=curve)
        cost = sum(plan.transfers[name].adapter_parameters for name in spec.experiment.enabled_transfers())
        values = tuple(
            float(cost) if objective == COST else final_of(result, objective)
            for objective in self._plan.sweep.objectives
        )
        return replace(trial, values=values, curve=curve, seconds=result["seconds"])

    @override
    def save(self, checkpoint_path: str) -> None:
        return  # the ledger has it

    @override
    def restore(self, checkpoint_path: str) -> None:
        return


def curve_of(metrics: list[dict[str, Any]], measured: str) -> tuple[tuple[float, float], ...]:
    """(epoch, figure) of `learner.metric` on the validation split."""
    learner, _, metric = measured.partition(".")
    return tuple(
        (line["epoch"], line["value"])
        for line in metrics
        if (line["learner"], line["metric"], line["split"]) == (learner, metric, "validation")
        and line["value"] is not None
    )


def divergence(result: Mapping[str, Any], objectives: Iterable[str]) -> str | None:
    """Which learner of the objectives has no weights to measure, and since when; None where all have."""
    for learner in dict.fromkeys(objective.partition(".")[0] for objective in objectives if objective != COST):
        if (tick := result["learners"][learner]["diverged_at"]) is not None:
            return f"{learner} diverged at tick {tick}"
    return None


def final_of(result: Mapping[str, Any], objective: str) -> float:
    """The validation figure `learner.metric` of the weights that a run ended with."""
    learner, _, metric = objective.partition(".")
    return float(result["learners"][learner]["validation"][metric])


# --- stopping early ------------------------------------------------------------------------------------------------


class Halving(ASHAScheduler):
    """Tune's asynchronous successive halving over the trials' own epochs; `stopped` has whom it stopped, and when."""

    def __init__(self, options: Asha, better: str, epochs: int) -> None:
        mode = "max" if better == "higher" else "min"
        grace = min(options.grace, epochs)
        super().__init__(EPOCH, VALUE, mode, max_t=epochs, grace_period=grace, reduction_factor=options.factor)
        self.stopped: dict[str, int] = {}

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP and STATE not in result:
            self.stopped[trial.trial_id] = result[EPOCH]
        return action

    def live_through(self, trials: Iterable[Trial]) -> None:
        """Takes the figures of earlier trials for its rungs."""
        for trial in trials:
            stand_in = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            self.on_trial_add(None, stand_in)
            for epoch, value in trial.curve:
                self.on_trial_result(None, stand_in, {EPOCH: epoch, VALUE: value})

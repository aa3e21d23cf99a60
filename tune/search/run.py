"""A sweep driven to its end: Tune runs the trials, the ledger is what remains."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory

from cluster.nodes import queue_here
from cluster.session import session
from cluster.trust import check_cluster
from mergenet.config import InputError, parse
from mergenet.experiment import Experiment
from mergenet.training.copies import fetch
from mergenet.training.files import has_begun, read_result, wait_until_free
from mergenet.training.remote import Away
from mergenet.training.run import record_end
from tune.search.ledger import Ledger, Trial, trials_of
from tune.search.memory import Memory
from tune.search.plan import Room, Setting, SweepPlan
from tune.search.searcher import Halving, Search
from tune.search.sweep import Asha
from tune.search.trial import work
from tune.search.watch import Patience, Stuck, Teller, Watch

MAX_FAILURES = 3
"""How often a trial goes on from its checkpoint when its worker dies."""

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads Tune's own snapshots
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # how a trial ended is reported without a figure
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a stopped trial to close its record before its worker takes another
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_sweep(
    plan: SweepPlan, ledger: Ledger, room: Room, patience: Patience, teller: Teller, told: Callable[[Trial], None]
) -> None:
    """Runs the trials that a sweep lacks, until all are there, the space is exhausted, or the hours are over.

    Args:
        told: called with every trial that has ended, after it was noted.

    Raises:
        Stuck: nothing moved any more.
        KeyboardInterrupt: the user wants no more.
    """
    begun = trials_of(ledger.events)
    over = [trial for trial in begun if trial.state != "running"]
    teller.begin(patience.trials, len(over))
    left = max(patience.trials - len(over), len(begun) - len(over))
    if not left:
        return

    def both(trial: Trial) -> None:
        teller.ended(trial)
        told(trial)

    try:
        with (
            _environment(QUIET),
            session(dashboard=plan.setting.workers > 1),
            TemporaryDirectory(prefix="mergenet-tune-", ignore_cleanup_errors=True) as aside,
        ):
            check_cluster(plan.runs, plan.paths, trainers=plan.setting.workers > 1)
            _tune(plan, ledger, room, patience, teller, both, left, aside)
    finally:
        teller.stop()
        with suppress(Away):
            for trial in trials_of(ledger.events):
                if trial.state == "stopped":
                    _note_in_record(plan, trial)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that the user has not set, set inside."""
    fresh = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            os.environ.pop(name, None)


def _note_in_record(plan: SweepPlan, trial: Trial) -> None:
    """The several workers of a trial that was stopped are ended with it, and could not say so in the run's record.

    They may live a moment longer than their driver.

    Raises:
        Away: the object store that it is kept in cannot be reached.
    """
    folder = plan.folder.parent / trial.run
    if read_result(folder) is None:  # a copy may be of before
        fetch(folder)
    if has_begun(folder) and read_result(folder) is None:
        wait_until_free(folder)
        spec, _ = plan.trial(trial.point)
        with suppress(InputError):  # still written
            record_end(spec, {"status": "stopped", "reason": trial.reason}, whoever_writes=True)


def _tune(
    plan: SweepPlan,
    ledger: Ledger,
    room: Room,
    patience: Patience,
    teller: Teller,
    told: Callable[[Trial], None],
    left: int,
    aside: str,
) -> None:
    from ray import tune

    halving = _halving(plan, ledger)
    memory = Memory(plan.sweep, plan.space, ledger.events)
    search = Search(plan, ledger, memory, halving.stopped if halving else {}, told, teller.say)
    news = queue_here()
    watch = Watch(news, patience, teller, lambda: search.problem is not None)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(work, news=news), _resources(plan.setting, room)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=halving,
            num_samples=left,
            max_concurrent_trials=room.trials,
            reuse_actors=plan.setting.workers == 1,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=aside,
            stop=watch,
            callbacks=[watch],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    tuner.fit()
    if search.problem is not None:
        raise search.problem
    if watch.stuck is not None:
        raise Stuck(watch.stuck)
    unfinished = any(trial.state == "running" for trial in trials_of(ledger.events))
    if not watch.late and (unfinished or (search.over < left and not search.exhausted)):
        raise KeyboardInterrupt  # which Tune answers by ending well


def _resources(setting: Setting, room: Room) -> dict[str, float]:
    """What Tune holds for a trial. One of several workers holds next to nothing: its workers ask for their own."""
    if setting.workers > 1:
        return {"memory": 2**20}
    return {"GPU": room.gpu} if setting.device == "cuda" else {"CPU": setting.threads}


def _halving(plan: SweepPlan, ledger: Ledger) -> Halving | None:
    options = plan.sweep.scheduler
    if not isinstance(options, Asha):
        return None
    experiment = parse(Experiment, plan.values)
    measured = plan.sweep.measured
    epochs = experiment.learners[experiment.clock].training.epochs
    halving = Halving(options, plan.sweep.objectives[measured], epochs)
    halving.live_through([trial for trial in trials_of(ledger.events) if trial.state != "running"])
    return halving

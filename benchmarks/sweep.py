"""What a sweep costs beside its trials: the driver's share a trial, and how long a trial takes to start.

    .venv/bin/python benchmarks/sweep.py driver [--trials 10 100 1000]
    .venv/bin/python benchmarks/sweep.py start [--trials 4]

`driver`: trials that train nothing and leave a result, drawn at random; what a trial takes of the driver's processor
and of the clock, for each number of trials in one Ray. The goal is that a trial costs the same however many there are.
`start`: from the moment a trial is asked for to its first tick, of a plain trial and of one on a Ray TorchTrainer of
one worker inside of it, in turn in one Ray; the first of each has no worker process yet and is told apart. The goal
for plain ones is 1.5 seconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.session import session
from mergenet.config import as_yaml, parse
from tune.search import run
from tune.search.begin import open_ledger
from tune.search.ledger import Trial, read_log
from tune.search.plan import Room, Setting, SweepPlan, plan_sweep
from tune.search.sweep import Sweep
from tune.search.trial import EPOCH, REASON, STATE, Task, ToTune
from tune.search.watch import Patience

LEARNER = {"task": {"classification": {"data": "digits"}}}
EXPERIMENT = {
    "name": "costs",
    "learners": {
        "source": {"model": "resnet18-narrow", **LEARNER},
        "target": {"model": "mobilenet_v2-narrow", **LEARNER},
    },
    "transfers": {"main": {"from": "source.classifier", "to": "target.irb16"}},
    "training": {"epochs": 1, "batch_size": 256, "schedule": "cosine"},
}
SWEEP = {
    "name": "costs",
    "title": "What does a sweep cost?",
    "space": {
        "transfers.main.encoding": ["whole", "svd"],
        "transfers.main.encoding.svd.rank": {"int": {"low": 1, "high": 32}},
        "transfers.main.cycle": {"int": {"low": 1, "high": 16}},
        "transfers.main.optimizer.adamw.lr": {"float": {"low": 1e-5, "high": 1e-2, "log": True}},
    },
    "objectives": {"target.top1": "higher"},
    "sampler": "random",
}


class Quiet:
    """Tells nobody."""

    def begin(self, total: int, done: int) -> None:
        """Nothing."""

    def ticked(self, run: str, ticks: int) -> None:
        """Nothing."""

    def ended(self, trial: Trial) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


def planned(folder: Path) -> SweepPlan:
    """The sweep in a folder of its own."""
    (folder / "costs.yaml").write_text(as_yaml(EXPERIMENT))
    sweep = parse(Sweep, {**SWEEP, "experiment": str(folder / "costs.yaml")})
    return plan_sweep(sweep, sweep.values(), Setting(), {}, folder / "runs")


def swept(plan: SweepPlan, trials: int, at_once: int) -> None:
    """Runs it."""
    ledger = open_ledger(plan, resume=False)
    run.run_sweep(plan, ledger, Room(at_once, 0.0, ""), Patience(trials), Quiet(), lambda trial: None)
    ledger.close()


def nothing(config: Mapping[str, str], news: Any) -> None:
    """A trial that trains nothing."""
    from ray import tune

    folder = Task.from_config(config).spec.folder
    folder.mkdir(parents=True)
    learners = {"target": {"validation": {"top1": 1.0}, "diverged_at": None}}
    (folder / "result.json").write_text(json.dumps({"status": "finished", "seconds": 0.0, "learners": learners}))
    tune.report({EPOCH: 1, STATE: "finished", REASON: None})


def on_trainer(config: Mapping[str, str], news: Any) -> None:
    """A trial on a TorchTrainer of one worker."""
    from ray import tune

    from cluster.launch import launch

    task = Task.from_config(config)
    launch(task.spec, (1,), ToTune(task, 1, news))
    tune.report({EPOCH: 1, STATE: "finished", REASON: None})


def driver(counts: list[int]) -> None:
    """Prints what a trial costs the driver."""
    run.work = nothing
    with session():
        swept_in_a_new_folder(4)
        for count in counts:
            cpu, wall = swept_in_a_new_folder(count)
            of_each = f"{1000 * cpu / count:6.0f} ms of the driver a trial, {1000 * wall / count:6.0f} ms of the clock"
            print(f"{count:5d} trials: {of_each}")


def swept_in_a_new_folder(count: int) -> tuple[float, float]:
    """Seconds of the driver's processor, and of the clock."""
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(Path(folder))
        cpu, wall = time.process_time(), time.perf_counter()
        swept(plan, count, at_once=1)
        return time.process_time() - cpu, time.perf_counter() - wall


def start(trials: int) -> None:
    """Prints how long trials take to start."""
    found: dict[str, list[float]] = {"plain": [], "TorchTrainer in Tune": []}
    with session(dashboard=True):
        for _ in range(trials):
            for name, seconds in found.items():
                run.work = on_trainer if name != "plain" else PLAIN
                run._resources = lambda setting, room, trainer=name != "plain": (
                    {"memory": 2**20} if trainer else {"CPU": 1}
                )
                with tempfile.TemporaryDirectory() as folder:
                    plan = planned(Path(folder))
                    swept(plan, 2, at_once=1)
                    seconds += started(plan)
    for name, seconds in found.items():
        first, later = seconds[::2], seconds[1::2]
        print(
            f"{name:21s} later trials {statistics.median(later):.2f} s ({min(later):.2f} to {max(later):.2f}), "
            f"the first of a sweep {statistics.median(first):.2f} s ({min(first):.2f} to {max(first):.2f})"
        )
    ratios = [one / other for one, other in zip(*(seconds[1::2] for seconds in found.values()), strict=True)]
    print(f"ratio pair by pair: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


PLAIN = run.work


def started(plan: SweepPlan) -> list[float]:
    """Seconds from asking for each trial until its run was described, just before its first tick."""
    log = read_log(plan.folder)
    return [(log.record(trial) / "manifest.json").stat().st_mtime - (trial.began or 0.0) for trial in log.trials()]


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["driver", "start"])
    parser.add_argument("--trials", type=int, nargs="+")
    asked = parser.parse_args()
    if asked.what == "driver":
        driver(asked.trials or [10, 100, 1000])
    else:
        start((asked.trials or [4])[0])


if __name__ == "__main__":
    main()

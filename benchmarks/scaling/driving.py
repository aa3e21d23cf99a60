"""The section `driver`: what the driver of a sweep does for a trial, an epoch's figure, a message, a point in MLflow.

Tune's controller, the searcher, the ledger, the queue of news and the mirror, each as the product has it; trials that
do nothing but report.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweep import EXPERIMENT, SWEEP, Quiet, planned

from .measured import Spread, table
from .rank import seconds
from .step_model import line

EPOCH, STATE, REASON = "epoch", "state", "reason"
"""Of `tune.search.trial`, whose import would bring torch into every worker."""
REPORTS = (1, 21)
TRIALS = 30
KNOWN = (10, 100, 1000, 3000)
NEWS = 300
CURVES, EPOCHS = 6, 30


def measure(rounds: int) -> dict[str, Any]:
    """Everything, in turn, round by round; the first of what runs on Ray is not counted."""
    from cluster.session import session

    found: dict[str, Any] = {"ledger": [], "ask": {}, "check": [], "mirror": [], "tune": [], "news": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            found["ledger"] += ledger_s(Path(folder) / f"ledger-{number}")
            found["mirror"].append(mirror_s(Path(folder) / f"mirror-{number}"))
            for sampler in ("random", "tpe"):
                for known, took in ask_s(Path(folder) / f"{sampler}-{number}", sampler).items():
                    found["ask"].setdefault(sampler, {}).setdefault(known, []).append(took)
            print(f"without Ray: round {number + 1} of {rounds}", flush=True)
    with session():
        swept({"CPU": 1}, trials=4, epochs=1, at_once=2)
        for number in range(rounds):
            found["tune"].append({str(epochs): swept({"CPU": 1}, TRIALS, epochs, at_once=2) for epochs in REPORTS})
            found["news"].append(news_s())
            print(f"on Ray: round {number + 1} of {rounds}", flush=True)
    return found


# --- without Ray ---------------------------------------------------------------------------------------------------


def ledger_s(folder: Path, events: int = 100) -> list[float]:
    """Seconds of each event until it is on disk."""
    from tune.search.ledger import Ledger, Trial, ended

    ledger = Ledger(folder)
    trial = Trial(0, {}, {}, "run", "finished", (1.0,), curve=tuple((float(epoch), 1.0) for epoch in range(EPOCHS)))
    found = [seconds(lambda: ledger.note(ended(trial))) for _ in range(events)]
    ledger.close()
    return found


def ask_s(folder: Path, sampler: str, draws: int = 15) -> dict[int, float]:
    """Trials that the sampler knows -> seconds of the processor to draw one more and check that it can run."""
    from mergenet.config import parse
    from tune.search.ledger import Trial
    from tune.search.memory import Memory, frozen
    from tune.search.sweep import Sweep

    folder.mkdir()
    plan = planned(folder)
    sweep = parse(Sweep, {**SWEEP, "experiment": plan.sweep.experiment, "sampler": sampler})
    memory = Memory(sweep, plan.space)
    drawer = Memory(parse(Sweep, {**sweep.dump(), "sampler": "random"}), plan.space)
    found = {}
    for known in KNOWN:
        while len(memory.study.get_trials(deepcopy=False)) < known:
            number = len(memory.study.get_trials(deepcopy=False))
            _, point = drawer.draw()
            trial = Trial(number, point, {}, "", "finished", (number * 0.618 % 1,))
            memory.study.add_trial(frozen(sweep, plan.space, trial))
        found[known] = statistics.median(_cpu_s(lambda: _drawn(memory, plan)) for _ in range(draws))
    return found


def _cpu_s(call: Callable[[], Any]) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def _drawn(memory: Any, plan: Any) -> None:
    """A draw and the check whether it can run, as the searcher does it; some cannot."""
    from mergenet.config import InputError

    with suppress(InputError):
        plan.trial(memory.draw()[1])


def mirror_s(folder: Path, runs: int = 5) -> dict[str, float]:
    """Seconds of MLflow, on SQLite, for a finished trial's record without and with its curves."""
    from tune.records import sync

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    sync(record(folder / "first", 0), uri)
    short = [seconds(lambda i=i: sync(record(folder / f"short{i}", 0), uri)) for i in range(runs)]
    long = [seconds(lambda i=i: sync(record(folder / f"long{i}", EPOCHS), uri)) for i in range(runs)]
    trial = statistics.median(short)
    return {"trial": trial, "metric": (statistics.median(long) - trial) / (CURVES * EPOCHS)}


def record(folder: Path, epochs: int) -> Path:
    """A finished run's, that trained nothing."""
    from mergenet.config import parse
    from mergenet.experiment import Experiment
    from mergenet.training.record import Record, surroundings

    own = Record(folder)
    manifest = {"hash": folder.name, "seed": 0, "cells": {}, "data": {}, "weights": {}, "resumed": []}
    own.describe(parse(Experiment, EXPERIMENT), {**manifest, **surroundings("cpu", 1, 1)})
    for epoch in range(epochs):
        own.log("target", epoch, epoch, "validation", {f"figure{curve}": 1.0 for curve in range(CURVES)})
    own.finish({"status": "finished", "seconds": 1.0, "learners": {}})
    own.close()
    return folder


# --- on Ray --------------------------------------------------------------------------------------------------------


def swept(
    resources: Mapping[str, float], trials: int, epochs: int, at_once: int, epoch_s: float = 0.0
) -> dict[str, Any]:
    """Runs a sweep of trials that sleep and report, as the product would.

    Returns:
        `cpu`, `wall`: of this process and of the clock, from the call to its return; `ends`: when trials ended;
        `start`: until the first did; `nodes`: the address of each trial's node.
    """
    from tune.search import run
    from tune.search.begin import open_ledger
    from tune.search.ledger import read_log
    from tune.search.plan import Room
    from tune.search.watch import Patience

    before = run.work, run._resources
    run.work, run._resources = sleeping(epochs, epoch_s), lambda setting, room: dict(resources)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plan = planned(Path(folder))
            ledger = open_ledger(plan, resume=False)
            begun, cpu, wall = time.time(), time.process_time(), time.perf_counter()
            run.run_sweep(plan, ledger, Room(at_once, 0.0, ""), Patience(trials), Quiet(), lambda trial: None)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            ledger.close()
            log = read_log(plan.folder)
            done = log.trials()
            nodes = [json.loads((log.record(trial) / "result.json").read_text())["node"] for trial in done]
    finally:
        run.work, run._resources = before
    ends = sorted(trial.over - begun for trial in done if trial.over is not None)
    return {"cpu": cpu, "wall": wall, "start": ends[0], "ends": ends, "nodes": nodes}


def sleeping(epochs: int, epoch_s: float) -> Callable[[Mapping[str, str], Any], None]:
    """A trial that does nothing for a while, and reports each epoch."""

    def work(config: Mapping[str, str], news: Any) -> None:
        import ray
        from ray import tune

        folder = Path(json.loads(config["task"])["spec"]["folder"])
        folder.mkdir(parents=True)
        for epoch in range(1, epochs):
            time.sleep(epoch_s)
            tune.report({EPOCH: epoch, "value": 1.0})
        time.sleep(epoch_s)
        learners = {"target": {"validation": {"top1": 1.0}, "diverged_at": None}}
        result = {"status": "finished", "seconds": 0.0, "learners": learners, "node": ray.util.get_node_ip_address()}
        (folder / "result.json").write_text(json.dumps(result))
        tune.report({EPOCH: epochs, STATE: "finished", REASON: None})

    return work


def news_s() -> dict[str, float]:
    """The queue of news: messages a second that it takes from two workers, and seconds of the driver to read one."""
    import ray
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    @ray.remote
    def producer(into: Any, count: int) -> None:
        for number in range(count):
            into.put(("a folder's path of the usual length, as it is sent", number))

    try:
        ray.get([producer.remote(queue, 1) for _ in range(2)])
        queue.get_nowait_batch(queue.qsize())
        took = seconds(lambda: ray.get([producer.remote(queue, NEWS) for _ in range(2)]))
        cpu = time.process_time()
        got = queue.get_nowait_batch(queue.qsize())
        return {"per_s": 2 * NEWS / took, "read": (time.process_time() - cpu) / len(got)}
    finally:
        queue.shutdown()


# --- what follows --------------------------------------------------------------------------------------------------


def numbers(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """The driver model's numbers, one of each round; seconds."""
    few, many = (str(count) for count in REPORTS)
    report = [(one[many]["cpu"] - one[few]["cpu"]) / TRIALS / (REPORTS[1] - REPORTS[0]) for one in found["tune"]]
    trial = [one[few]["cpu"] / TRIALS - REPORTS[0] * each for one, each in zip(found["tune"], report, strict=True)]
    asks = [_lines(found["ask"], number) for number in range(len(found["mirror"]))]
    return {
        "trial_s": trial,
        "report_s": report,
        "message_s": [one["read"] for one in found["news"]],
        "ask_s": [ask for ask, _ in asks],
        "ask_growth_s": [growth for _, growth in asks],
        "mirror_trial_s": [one["trial"] for one in found["mirror"]],
        "mirror_metric_s": [one["metric"] for one in found["mirror"]],
    }


def _lines(asks: Mapping[str, Mapping[str, list[float]]], number: int) -> tuple[float, float]:
    """TPE's draw beyond a random one: at the start, and what each known trial adds."""
    return line(
        [
            (float(known), took[number] - asks["random"][known][number])
            for known, took in asks["tpe"].items()
            if int(known) >= 100  # before, and a little after, the first draws are random ones
        ]
    )


def show(found: Mapping[str, Any]) -> None:
    """Prints what was measured."""
    print(f"\nn = {len(found['tune'])} rounds, median (least to most):\n")
    table(["of the driver", "ms"], _rows(found))


def _rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, values in numbers(found).items():
        yield [SAID[name], Spread.of(values).shown("{:.3f}", 1e3)]
    for sampler, asks in found["ask"].items():
        for known, took in asks.items():
            yield [f"a draw and its check, {sampler}, {known} known", Spread.of(took).shown("{:.1f}", 1e3)]
    events = Spread.of(found["ledger"])
    yield [f"an event in the ledger, on disk, n = {events.n}", events.shown("{:.2f}", 1e3)]
    for count in map(str, REPORTS):
        ends = [one[count]["ends"] for one in found["tune"]]
        rates = Spread.of([(len(one) - 5) / (one[-1] - one[4]) for one in ends]).shown("{:.1f}")
        yield [f"trials a second with {count} reports each, two at once", f"{rates} a second"]
    yield [
        "messages into the queue of news",
        f"{Spread.of([one['per_s'] for one in found['news']]).shown('{:.0f}')} a second",
    ]


SAID = {
    "trial_s": "a trial: draw at random, check, note, start, end",
    "report_s": "an epoch's figure",
    "message_s": "a message of news, read",
    "ask_s": "TPE's draw beyond a random one",
    "ask_growth_s": "and for each trial that it knows",
    "mirror_trial_s": "MLflow's thread: a trial",
    "mirror_metric_s": "MLflow's thread: a point of a curve",
}

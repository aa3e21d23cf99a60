"""A tiny sweep: trios of narrow networks on digits, five ticks an epoch, around options that cost nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mergenet.config import as_yaml, merge, parse
from tests.conftest import SMALL
from tune.search.ledger import Event, Trial, asked, ended, refused
from tune.search.memory import Memory
from tune.search.plan import Setting, SweepPlan, plan_sweep
from tune.search.space import Space, make_space
from tune.search.sweep import Sweep

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "What is best of what costs nothing?",
    "experiment": "small.yaml",
    "change": {"training.epochs": 2, "checkpoint.every": 5},
    "space": {
        "transfers.main.encoding": ["whole", "svd"],
        "transfers.main.encoding.svd.rank": {"int": {"low": 1, "high": 8, "log": True}},
        "transfers.main.cycle": {"int": {"low": 1, "high": 4}},
        "transfers.main.optimizer.adamw.lr": {"float": {"low": 1e-5, "high": 1e-2, "log": True}},
    },
    "objectives": {"target.loss": "lower"},
    "sampler": "random",
    "budget": {"trials": 6},
}


def tiny(folder: Path, change: dict[str, Any] | None = None) -> Sweep:
    """The tiny sweep around an experiment in `folder`, changed by a nested map."""
    (folder / "small.yaml").write_text(as_yaml(SMALL))
    return parse(Sweep, merge(Sweep, {**TINY, "experiment": str(folder / "small.yaml")}, change or {}))


def written(folder: Path, change: dict[str, Any] | None = None) -> str:
    """The tiny sweep as a file."""
    (folder / "tiny.yaml").write_text(as_yaml(tiny(folder, change).dump()))
    return str(folder / "tiny.yaml")


def planned(folder: Path, change: dict[str, Any] | None = None, setting: Setting | None = None) -> SweepPlan:
    """The tiny sweep, checked; its runs lie in `folder`."""
    sweep = tiny(folder, change)
    return plan_sweep(sweep, sweep.values(), setting or Setting(), {}, folder / "runs")


def space_of(sweep: Sweep) -> Space:
    """The space of a sweep without patterns."""
    return make_space(sweep.values(), sweep.space, list)


def figure(point: dict[str, Any]) -> float:
    """What a trial at a point of the tiny space might come to, to the last bit."""
    rank, cycle = point.get("transfers.main.encoding.svd.rank", 0), point["transfers.main.cycle"]
    return float(1.0 / (1 + rank) + 0.1 * cycle + 100 * float(point["transfers.main.optimizer.adamw.lr"]))


def lived(sweep: Sweep, space: Space, trials: int, events: Iterable[Event] = (), refuse: int = 7) -> list[Event]:
    """The events of a sweep of which two trials run at once, every `refuse`th draw is refused, and none really runs.

    It goes on with `events`, as a driver would that finds them.
    """
    events = list(events)
    memory = Memory(sweep, space, events)
    while True:
        begun, over = of_kind(events, "asked"), of_kind(events, "ended")
        if len(over) == trials:
            return events
        if len(begun) - len(over) < 2 and len(begun) < trials:
            draw, point = memory.draw()
            if (len(begun) + len(of_kind(events, "refused"))) % refuse == refuse - 1:
                events.append({**refused(point, "for a test"), "at": 0.0})
                memory.refuse(draw)
            else:
                trial = Trial(len(begun), point, space.changes(point), f"run-{len(begun)}")
                events.append({**asked(trial), "at": 0.0})
                memory.begin(len(begun), draw)
        else:
            trial = _over(sweep, len(over), begun[len(over)]["point"])
            events.append({**ended(trial), "at": 0.0})
            memory.tell(trial)


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind."""
    return [event for event in events if event["event"] == kind]


def _over(sweep: Sweep, number: int, point: dict[str, Any]) -> Trial:
    """Every fifth trial is stopped early, every seventh diverges, every eleventh fails."""
    value = figure(point)
    if number % 11 == 10:
        return Trial(number, point, {}, "", "failed", reason="for a test")
    if number % 7 == 6:
        return Trial(number, point, {}, "", "diverged", reason="for a test", curve=((1, value),))
    if number % 5 == 4:
        return Trial(number, point, {}, "", "stopped", reason="for a test", curve=((1, value), (2, value)))
    values = (value, float(number))[: len(sweep.objectives)]
    return Trial(number, point, {}, "", "finished", values, curve=((1, value),), seconds=1.0)

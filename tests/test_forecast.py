"""The arithmetic of a forecast, by counts of real runs and by probes made by hand; nothing here looks at a clock."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergenet.data.images import Images, Split
from mergenet.experiment import Experiment
from mergenet.training import run
from mergenet.training.amounts import Amounts, Happening, amounts_of, happenings
from mergenet.training.graph import Graph
from mergenet.training.learner import Learner
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan
from mergenet.training.probe import Probe, Timing
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.refused import refusal
from tests.sweeps import planned
from tests.tables import missing, tiny
from tests.tables import plan as tiny_plan
from tune.forecast.alike import Alike, alike, most_different, nearest
from tune.forecast.corners import Corner, corners, expected_share
from tune.forecast.cost import Timed, cost_of, tick_s, transfer_s, wall_s
from tune.forecast.forecast import crowding, measured
from tune.forecast.kinds import Place, corner_runs, forecast_recipe, forecast_sweep, forecast_table
from tune.forecast.room import disk, most_at_once, packing
from tune.forecast.seeds import seeds_for, seeds_of
from tune.results import Entry, Results
from tune.search.sweep import Asha, ToTheEnd
from tune.statistics import compare, fewest_pairs, is_screening

Small = Callable[..., Experiment]

PLAIN, TAUGHT = Happening(("source", "target")), Happening(("source", "target"), ("main",), ("main",))
MB = 2**20


def a_probe(**changes: Any) -> Probe:
    """Plain ticks of 2 s (the first took 5), taught ones of 3 s (4), 0.1 s a sample, 1 s to build, 7 s a checkpoint."""
    made: dict[str, Any] = {
        "ticks": (Timing(PLAIN, 2.0, 9, 5.0), Timing(TAUGHT, 3.0, 4, 4.0)),
        "validation_s": {"source": 0.1, "target": 0.3},
        "import_s": 6.0,
        "build_s": 1.0,
        "checkpoint_s": 7.0,
        "checkpoint_bytes": 100,
        "memory_bytes": 300 * MB,
        "gpu_bytes": None,
        "gpu_total_bytes": None,
        "stand_ins": (),
        "diverged": (),
        "workers": 1,
        "seconds": 20.0,
    }
    return Probe(**{**made, **changes})


def an_amount(**changes: Any) -> Amounts:
    """Ten plain ticks, four taught ones, 20 samples a learner, three checkpoints, 11 lines of metrics."""
    made: dict[str, Any] = {
        "ticks": {PLAIN: 10, TAUGHT: 4},
        "samples": {"source": 20, "target": 20},
        "checkpoints": 3,
        "figures": 11,
    }
    return Amounts(**{**made, **changes})


def a_run(experiment: Experiment, name: str = "run", count: int = 1, **changes: Any) -> Alike:
    return Alike(name, RunSpec(experiment, 0, {}, Path("runs/a")), an_amount(**changes), count)


# --- counted as it happens -----------------------------------------------------------------------------------------

GRAPHS: list[dict[str, Any]] = [
    {},
    {"transfers": {"main": {"enabled": False}}},
    {"learners": {"source": {"training": {"every": 3}}}, "transfers": {"main": {"cycle": 3, "span": "cycle"}}},
    {"transfers": {"main": {"cycle": 4, "span": "cycle", "start": 0.2, "stop": 0.9}}},
    {
        "learners": {"source": {"training": {"every": 2}}},
        "transfers": {"back": {"from": "target.classifier", "to": "source.conv1", "cycle": 2, "encoding": "whole"}},
    },
]


@pytest.mark.parametrize("change", GRAPHS)
def test_what_happens_on_ticks_is_what_a_run_does(small: Small, digits: Images, change: dict[str, Any]) -> None:
    experiment = small({"training": {"epochs": 2}, **change})
    plan = make_plan(experiment, 0, {"digits": digits}, 1)
    graph = Graph(experiment, plan, {"digits": digits}, 0, torch.device("cpu"))
    seen: dict[Happening, list[int]] = {}
    for tick in range(plan.ticks):
        steps = {name: learner.done for name, learner in graph.learners.items()}
        updates = {name: edge.transfer.updates for name, edge in graph.edges.items()}
        writes = tuple(name for name, edge in graph.edges.items() if edge.due(tick))
        advance(graph)
        happened = Happening(
            tuple(name for name, learner in graph.learners.items() if learner.done > steps[name]),
            writes,
            tuple(name for name, edge in graph.edges.items() if edge.transfer.updates > updates[name]),
        )
        seen.setdefault(happened, []).append(tick)
    assert seen == happenings(experiment, plan)


@pytest.mark.parametrize(
    "evaluation", [{}, {"every": 2}, {"test": "never"}, {"test": "always"}, {"validation": 0.0}, {"weights": "best"}]
)
def test_samples_checkpoints_and_figures_are_those_of_a_run(
    small: Small, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation: dict[str, Any]
) -> None:
    samples: dict[str, int] = {}
    saved: list[int] = []

    def evaluate(learner: Learner, split: Split) -> dict[str, float]:
        samples[learner.name] = samples.get(learner.name, 0) + len(split)
        return {"loss": 1.0, "top1": 1.0, "top5": 1.0}

    monkeypatch.setattr(run, "evaluate", evaluate)
    monkeypatch.setattr(run, "save_checkpoint", lambda folder, tick, state: saved.append(tick))
    experiment = small({"training": {"epochs": 3}, "evaluation": evaluation, "checkpoint": {"every": 4}})
    spec = RunSpec(experiment, 0, {}, tmp_path / "run")
    amounts = amounts_of(experiment, make_plan(experiment, 0, {"digits": digits}, 1), {"digits": digits})
    execute(spec, Silent())
    assert samples == amounts.samples and len(saved) == amounts.checkpoints
    lines = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert lines <= amounts.figures + 6  # of the test at the end


# --- what a run costs ----------------------------------------------------------------------------------------------


def test_a_run_is_counts_times_medians() -> None:
    cost = cost_of(an_amount(), a_probe())
    assert cost.ticks_s == 10 * 2 + 4 * 3
    assert cost.warm_s == (5 - 2) + (4 - 3)
    assert cost.validation_s == pytest.approx(20 * 0.1 + 20 * 0.3)
    assert cost.checkpoints_s == 3 * 7
    assert cost.seconds == pytest.approx(1 + 4 + 32 + 8 + 21) and cost.trained_s == pytest.approx(cost.seconds - 1)
    assert cost.disk_bytes == 2 * 100 + 11 * 150
    assert cost_of(an_amount(checkpoints=1), a_probe()).disk_bytes == 100 + 11 * 150  # two are kept of many
    assert cost_of(an_amount(), a_probe(workers=2)).memory_bytes == 600 * MB


def test_what_was_not_seen_goes_by_what_is_most_like_it() -> None:
    probe = a_probe()
    assert tick_s(probe, Happening(("a", "b"))) == 2.0  # another run's names
    assert tick_s(probe, Happening(("a", "b"), ("x", "y"), ("x",))) == 3.0
    assert tick_s(probe, Happening(("target",), (), ("main",))) == 3.0
    paced = a_probe(ticks=(Timing(PLAIN, 2.0, 9, 2.0), Timing(Happening(("target",), ("main",)), 9.0, 4, 9.0)))
    assert tick_s(paced, TAUGHT) == 9.0  # a transfer costs more than who steps
    three = a_probe(ticks=(*probe.ticks, Timing(Happening(("target",)), 0.5, 3, 0.5)))
    assert tick_s(three, Happening(("other",))) == 0.5
    assert cost_of(an_amount(samples={"other": 10}), probe).validation_s == pytest.approx(10 * 0.2)


def test_runs_are_packed_in_their_order() -> None:
    assert wall_s([], 2) == 0
    assert wall_s([Timed(3.0)] * 4, 2) == 6
    assert wall_s([Timed(3.0)] * 5, 2) == 9  # the last one runs alone
    assert wall_s([Timed(1.0), Timed(5.0), Timed(1.0)], 2) == 5
    first, second = Timed(2.0, makes=frozenset({"w"})), Timed(3.0, needs=frozenset({"w"}))
    assert wall_s([second, first], 2) == 5 and wall_s([second], 2) == 3  # its weights are there


def test_runs_beside_each_other_slow_each_other_down() -> None:
    assert wall_s([Timed(3.0)] * 2, 2, crowding=2.0) == 6
    assert wall_s([Timed(3.0)] * 3, 2, crowding=2.0) == 9  # the last one is alone again
    assert wall_s([Timed(4.0), Timed(1.0)], 2, crowding=1.5) == 1.5 + 3
    assert wall_s([Timed(2.0)] * 2, 3, crowding=3.0) == 2 * 2  # two of three: half of what three lose


# --- which are measured --------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one(tmp_path: Path) -> None:
    groups = alike(missing(tiny_plan(), tmp_path).jobs)
    assert [(run.name, run.count, len(jobs)) for run, jobs in groups] == [("vanilla, one-way", 2, 2), ("frozen", 2, 2)]
    assert groups[1][1][0].spec.experiment != groups[1][1][1].spec.experiment  # files of weights are of the seed


def test_the_most_different_runs_are_measured_and_the_others_go_by_the_nearest(small: Small) -> None:
    resnet = {"learners": {"target": {"model": "resnet18-narrow"}}, "transfers": {"main": {"to": "target.conv1"}}}
    runs = [
        a_run(small(), "base"),
        a_run(small({"transfers": {"main": {"cycle": 3}}}), "cycle"),
        a_run(small(resnet), "other model"),
        a_run(small({"transfers": {"main": {"adapter": {"lpka": {"width": 8, "depth": 2}}}}}), "small"),
        a_run(small({"name": "named"}), "longest", ticks={PLAIN: 99}),
    ]
    assert most_different(runs, 2) == [4, 2]
    assert set(most_different(runs, 3)) == {4, 2, 3} and len(most_different(runs, 9)) == 5
    assert nearest(runs[1], runs, [2, 3, 4]) == 4  # but for its name the longest is the base
    assert nearest(runs[0], runs, [1, 2, 3]) == 1


def test_probes_are_as_many_as_the_seconds_allow(small: Small) -> None:
    runs = [a_run(small({"transfers": {"main": {"cycle": cycle}}}), f"cycle {cycle}") for cycle in range(1, 6)]
    asked: list[tuple[str, float]] = []

    def measure(spec: RunSpec, seconds: float, beside: int) -> list[Probe]:
        asked.append((str(spec.experiment.transfers["main"].cycle), seconds))
        return [a_probe()] * beside

    told: list[str] = []
    lines = measured(runs, 35.0, measure, told.append)
    assert len(asked) == len(told) == 3 and sum(seconds for _, seconds in asked) == pytest.approx(35.0)
    assert [line.run.name for line in lines] == [run.name for run in runs]
    assert sum(line.like is None for line in lines) == 3 and all(line.cost.ticks_s == 32 for line in lines)
    asked.clear()
    assert len(measured(runs[:2], 1000.0, measure, told.append)) == 2
    assert [seconds for _, seconds in asked] == [20.0, 20.0]  # no longer than a probe is to take
    assert measured([], 60.0, measure, told.append) == ()


def test_a_transfer_that_was_not_measured_adds_what_one_adds_elsewhere(small: Small) -> None:
    assert transfer_s(a_probe()) == 1.0 and transfer_s(a_probe(ticks=a_probe().ticks[:1])) is None
    two = Timing(Happening(PLAIN.steps, ("a", "b"), ("a",)), 3.0, 4, 3.0)
    assert transfer_s(a_probe(ticks=(Timing(PLAIN, 2.0, 9, 5.0), two))) == 0.5

    alone = {"learners": {"target": {"model": "resnet18-narrow"}}, "transfers": {"main": {"to": "target.conv1"}}}
    off = {**alone, "transfers": {"main": {"to": "target.conv1", "enabled": False}}}
    other = small({"learners": {"source": {"model": "mobilenet_v2-narrow"}}})
    runs = [
        a_run(other, "measured", ticks={PLAIN: 99, TAUGHT: 99}),
        a_run(small(off), "off", ticks={Happening(("target",)): 14}),
        a_run(small(alone), "on", ticks={Happening(("target",)): 10, Happening(("target",), ("main",)): 4}),
    ]

    def measure(spec: RunSpec, seconds: float, beside: int) -> list[Probe]:
        plain = a_probe(ticks=(Timing(Happening(("target",)), 0.5, 9, 0.5),))
        return [a_probe() if spec.experiment == other else plain]

    lines = measured(runs, 20.0, measure, lambda line: None)
    assert [line.like for line in lines] == [None, None, "off"]
    assert lines[2].cost.ticks_s == 10 * 0.5 + 4 * (0.5 + 1.0)


def test_crowding_is_how_much_longer_the_dearest_takes_beside_others(small: Small) -> None:
    alone, beside = a_probe(), a_probe(ticks=(Timing(PLAIN, 6.0, 9, 6.0), Timing(TAUGHT, 9.0, 4, 9.0)))
    calls: list[tuple[int, int]] = []

    def measure(spec: RunSpec, seconds: float, at_once: int) -> list[Probe]:
        calls.append((spec.experiment.transfers["main"].cycle, at_once))
        return [alone] if at_once == 1 else [beside] * at_once

    runs = [
        a_run(small()),
        a_run(small({"transfers": {"main": {"cycle": 7}}}), ticks={PLAIN: 50}),
    ]
    lines = measured(runs, 60.0, measure, lambda line: None)
    calls.clear()
    assert crowding(lines, 3, 10.0, measure, lambda line: None) == pytest.approx(
        (1 + 300 + 8 + 21) / (4 + 1 + 100 + 8 + 21)
    )
    assert calls == [(7, 3)]
    assert crowding(lines, 1, 10.0, measure, lambda line: None) == 1.0 and len(calls) == 1


# --- room ----------------------------------------------------------------------------------------------------------


def test_processors_or_memory_bind() -> None:
    by_processors = packing(8, 2, None, 300, 10_000)
    assert (by_processors.at_once, by_processors.by_memory, by_processors.binds) == (4, 33, "processors")
    by_memory = packing(8, 2, None, 4_000, 10_000)
    assert (by_memory.at_once, by_memory.by_places, by_memory.binds) == (2, 4, "memory") and by_memory.fits
    none = packing(8, 2, None, 20_000, 10_000)
    assert (none.at_once, none.by_memory, none.fits) == (1, 0, False)
    assert packing(8, 2, 3, 300, 10_000).at_once == 3


def test_runs_share_a_gpu_by_its_memory_when_they_are_asked_to() -> None:
    alone = packing(1, 1, None, 300, 10_000, gpu=(1500 * MB, 10_000 * MB))
    assert (alone.at_once, alone.by_gpu_memory, alone.binds) == (1, 4, "GPUs")
    asked = packing(1, 1, 6, 300, 10_000, gpu=(1500 * MB, 10_000 * MB))
    assert (asked.at_once, asked.binds) == (4, "the GPU's memory")
    assert not packing(1, 1, None, 300, 10_000, gpu=(20_000 * MB, 10_000 * MB)).fits


def test_what_has_no_room_is_refused_before_anything_is_measured() -> None:
    assert "a run takes 3 processors, and this machine has 2" in refusal(lambda: most_at_once(2, 3, None, False))
    assert refusal(lambda: most_at_once(4, 2, 3, False)).startswith("--concurrent 3: 4 processors have room for 2")
    assert most_at_once(1, 1, 3, True) == 3


def test_disk_is_what_all_runs_leave_against_what_is_free(tmp_path: Path) -> None:
    found = disk([200, 300], tmp_path / "runs" / "not" / "there")
    assert found.needed_bytes == 500 and found.fits and found.where == str(tmp_path)
    assert not disk([found.free_bytes, 10**12], tmp_path).fits


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_the_fewest_seeds_are_the_first_that_are_more_than_screening() -> None:
    assert [fewest_pairs(k) for k in (1, 3, 6)] == [6, 7, 8]
    for comparisons in range(1, 30):
        fewest = fewest_pairs(comparisons)
        assert not is_screening(fewest, comparisons) and is_screening(fewest - 1, comparisons)
    assert seeds_for(6, 1, 0.5).suffice and not seeds_for(7, 5, 0.5).suffice and seeds_for(8, 5, 0.5).suffice


def test_measured_spread_says_how_many_seeds_an_effect_takes() -> None:
    arm, other = {0: 1.0, 1: 3.0, 2: 2.0}, {0: 2.0, 1: 2.0, 2: 2.0}
    base = dict.fromkeys(range(3), 0.0)
    entries = {
        ("vanilla", "target.top1"): Entry({}),
        ("one-way", "target.top1"): Entry({}, comparison=compare("vanilla", arm, base, "higher")),
        ("frozen", "target.top1"): Entry({}, comparison=compare("vanilla", other, base, "higher")),
    }
    results = Results(tiny(), "tiny", "", "last", (0, 1, 2), entries, {}, 2, True, (), {}, "")
    found = seeds_of(results, effect=0.5)
    assert (found.there, found.comparisons, found.fewest, found.suffice) == (3, 2, 7, False)
    assert found.needed["target"].spread == 0.5  # between 1 and 0
    assert found.needed["target"].seeds == 13 and "source" not in found.needed
    assert seeds_of(results, effect=5.0).needed["target"].seeds == 7  # never fewer than screening asks for


# --- sweeps --------------------------------------------------------------------------------------------------------


def test_halving_leaves_the_share_of_epochs_that_trials_reach() -> None:
    assert expected_share(ToTheEnd(), 9) == 1.0
    assert expected_share(Asha(grace=1, factor=3), 9) == pytest.approx((1 + 2 / 3 + 6 / 9) / 9)
    assert expected_share(Asha(grace=2, factor=2), 6) == pytest.approx((2 + 2 / 2 + 2 / 4) / 6)
    assert expected_share(Asha(grace=5, factor=2), 5) == expected_share(Asha(grace=9, factor=2), 5) == 1.0


def test_corners_have_the_least_and_the_most_labour(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    cheapest, dearest = corners(plan)
    points = [
        {
            "transfers.main.encoding": encoding,
            **({"transfers.main.encoding.svd.rank": rank} if encoding == "svd" else {}),
            "transfers.main.cycle": cycle,
            "transfers.main.optimizer.adamw.lr": 1e-5,
        }
        for encoding in ("whole", "svd")
        for rank in (1, 8)
        for cycle in (1, 4)
    ]
    labours = [_labour(*plan.trial(point)) for point in points]
    assert (cheapest.labour, dearest.labour) == (min(labours), max(labours))
    assert cheapest.point["transfers.main.cycle"] == 4 and dearest.point["transfers.main.cycle"] == 1


def _labour(spec: RunSpec, plan: Any) -> int:
    own = sum(one.parameters * one.steps for one in plan.learners.values())
    return int(own + plan.transfers["main"].adapter_parameters * plan.transfers["main"].transfers)


def test_a_corner_that_cannot_run_is_left_for_one_that_can(tmp_path: Path) -> None:
    space = {
        "transfers.main.from": ["source.classifier", "source.conv1"],
        "transfers.main.encoding.svd.rank": [99, 9, 8],  # 99 is above every matrix, 9 above that of conv1
    }
    cheapest, dearest = corners(planned(tmp_path, {"space": {"transfers.main.encoding": ["svd"], **space}}))
    assert 99 not in (
        cheapest.point["transfers.main.encoding.svd.rank"],
        dearest.point["transfers.main.encoding.svd.rank"],
    )
    assert cheapest.labour < dearest.labour


# --- whole forecasts -----------------------------------------------------------------------------------------------


def place(folder: Path, **changes: Any) -> Place:
    return Place(
        **{"device": "cpu", "there": 2, "each": 1, "free_bytes": 10**10, "concurrent": None, "runs": folder, **changes}
    )


def lines_of(runs: Iterable[Alike]) -> Any:
    return measured(list(runs), 1000.0, lambda spec, seconds, beside: [a_probe()] * beside, lambda line: None)


ONE = 1 + 4 + 32 + 8 + 21
"""Seconds of `an_amount` by `a_probe`."""


def test_a_recipe_runs_one_seed_after_another(small: Small, tmp_path: Path) -> None:
    forecast = forecast_recipe("", lines_of([a_run(small(), count=3)]), place(tmp_path), seeds_for(3, 1, 0.5), "")
    assert forecast.runs == 3 and forecast.wall_s == forecast.work_s == pytest.approx((3 * (6 + ONE),) * 2)
    assert forecast.disk is not None and forecast.disk.needed_bytes == 3 * (2 * 100 + 11 * 150)


def test_a_table_takes_its_missing_runs_at_so_many_at_once(tmp_path: Path) -> None:
    groups = alike(missing(tiny_plan(), tmp_path).jobs)
    lines = lines_of(replace(run, amounts=an_amount()) for run, _ in groups)
    jobs, seeds = [jobs for _, jobs in groups], seeds_for(2, 1, 0.5)
    forecast = forecast_table("", lines, jobs, place(tmp_path), lambda at_once: 1.0, seeds, "")
    assert forecast.runs == 4 and forecast.work_s[0] == pytest.approx(4 * ONE)
    assert forecast.wall_s[0] == pytest.approx(6 + 2 * ONE)
    assert forecast.arms == pytest.approx({"vanilla": ONE, "one-way": ONE, "frozen": 2 * ONE})

    crowded = forecast_table("", lines, jobs, place(tmp_path), lambda at_once: 1.0 + at_once / 10, seeds, "")
    assert crowded.crowding == 1.2 and crowded.wall_s[0] == pytest.approx(6 + 1.2 * 2 * ONE)
    little = place(tmp_path, free_bytes=500 * MB)  # a run takes 300
    forecast = forecast_table("", lines, jobs, little, lambda at_once: float(at_once), seeds, "")
    assert forecast.packing is not None and forecast.packing.at_once == 1
    assert forecast.crowding == 1.0 and forecast.wall_s[0] == pytest.approx(6 + 4 * ONE)

    nothing = forecast_table("", (), [], place(tmp_path), lambda at_once: 1.0, seeds, "")
    assert (nothing.runs, nothing.wall_s, nothing.packing, nothing.disk) == (0, (0.0, 0.0), None, None)


def test_a_sweep_takes_from_its_cheapest_to_its_dearest_run_for_every_trial(tmp_path: Path, digits: Images) -> None:
    ends: dict[str, Corner] = dict(zip(("cheap", "dear"), corners(planned(tmp_path)), strict=True))
    cheap, dear = corner_runs(ends, {"digits": digits})
    assert cheap.amounts.ticks != dear.amounts.ticks  # one transfers at every step
    lines = lines_of([replace(cheap, amounts=an_amount()), replace(dear, amounts=an_amount(ticks={TAUGHT: 14}))])
    seeds = seeds_for(6, 1, 0.5)
    scheduler = Asha(grace=1, factor=2)  # of two epochs: all the first, half of them the second
    forecast = forecast_sweep("", lines, 5, scheduler, place(tmp_path), lambda at_once: 1.0, seeds, "")
    assert forecast.work_s == pytest.approx((5 * ONE, 5 * (ONE + 10)))
    assert forecast.wall_s == pytest.approx((6 + 3 * ONE, 6 + 3 * (ONE + 10)))
    assert forecast.halved_s == pytest.approx((6 + 3 * (ONE - 40 / 4), 6 + 3 * (ONE + 10 - 50 / 4)))
    assert forecast.disk is not None and forecast.disk.needed_bytes == 5 * (2 * 100 + 11 * 150)
    to_the_end = forecast_sweep("", lines, 5, ToTheEnd(), place(tmp_path), lambda at_once: 1.0, seeds, "")
    assert to_the_end.halved_s is None


def test_what_was_not_measured_as_it_will_run_is_said(small: Small, tmp_path: Path) -> None:
    odd = a_probe(stand_ins=("teacher",), diverged=("main",))
    runs = [a_run(small()), a_run(small({"transfers": {"main": {"cycle": 3}}}), "other")]
    lines = measured(runs, 10.0, lambda spec, seconds, beside: [odd], lambda line: None)
    notes = " / ".join(forecast_recipe("", lines, place(tmp_path), seeds_for(1, 1, 0.5), "").notes)
    assert "random weights" in notes and "teacher" in notes and "not finite" in notes and "1 of 2 kinds" in notes


def test_a_probe_travels_as_it_is() -> None:
    assert Probe.from_plain(a_probe(stand_ins=("a",)).as_plain()) == a_probe(stand_ins=("a",))

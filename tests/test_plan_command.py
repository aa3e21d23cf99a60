"""`mergenet plan`: real probes of a recipe, a table and a sweep, what it refuses, and that it leaves nothing behind."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergenet.config import as_yaml
from mergenet.data.images import Images
from mergenet.experiment import Experiment, recipes
from mergenet.models import find_model
from mergenet.training.checkpoint import checkpoints
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from mergenet.training.probe import Probe, ProbeFailed, _failure, probe
from mergenet.training.probing import _Ticks, measure
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import Origin, RunSpec
from tests.conftest import Outcome
from tests.refused import refusal
from tests.tables import TINY
from tune.search.sweep import sweeps
from tune.table import tables

Call = Callable[..., Outcome]
Small = Callable[..., Experiment]


@pytest.fixture
def mergenet(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Small) -> Call:
    """Calls the command line, 80 columns wide, in a folder with a recipe, a table and something else."""
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "small.yaml").write_text(as_yaml(small().dump()))
    (tmp_path / "tiny.yaml").write_text(as_yaml(TINY))
    (tmp_path / "odd.yaml").write_text("name: odd\n")
    return call


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"small.yaml", "tiny.yaml", "odd.yaml"}


def measured(spec: RunSpec, aside: Path, seconds: float = 2.0) -> Probe:
    """What a probe finds, in this process: to start another takes longer than what it does."""
    (aside / "aside").mkdir()
    found = measure(spec, time.time(), seconds, str(aside / "aside"))
    assert found is not None
    return found


def reckoned(line: dict[str, Any]) -> float:
    """Counts times medians, over all that happens on a tick."""
    medians = {tuple(map(tuple, one["happening"].values())): one["seconds"] for one in line["probe"]["ticks"]}
    return sum(
        one["count"] * medians[tuple(tuple(one[key]) for key in ("steps", "writes", "learns"))] for one in line["ticks"]
    )


# --- the three kinds -----------------------------------------------------------------------------------------------


def test_a_recipe_is_measured_and_forecast(mergenet: Call, tmp_path: Path) -> None:
    asked = ["digits-cross-structure", "training.epochs=1", "--seconds", "8"]
    code, out, err = mergenet("plan", *asked, "--json")
    assert code == 0, err
    forecast = json.loads(out)
    (line,) = forecast["lines"]
    assert [one["count"] for one in line["ticks"]] == [16, 4]
    assert all(one["measured"] > 0 and one["seconds"] > 0 for one in line["probe"]["ticks"])
    assert line["cost"]["ticks_s"] == pytest.approx(reckoned(line))
    assert forecast["wall_s"][0] == pytest.approx(line["probe"]["import_s"] + line["cost"]["seconds"])
    assert forecast["packing"]["memory_bytes"] == line["probe"]["memory_bytes"] > 100e6
    assert err.count("probe 1 of 1") == 1 and left_behind(tmp_path) == set()


def test_a_table_is_forecast_by_arm_and_what_is_there_is_not_counted(
    mergenet: Call, folder: Path, tmp_path: Path
) -> None:
    where = ["--scale", "tiny", "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    before = sorted(folder.rglob("*"))
    code, out, err = mergenet("plan", "tiny.yaml", *where, "--seeds", "1", "--seconds", "4")
    words = " ".join(out.split())
    assert code == 0 and err == ""
    assert "tiny at scale tiny: 5 of 5 cells there; 0 runs would train" in words and "one run" not in words
    assert "1; 2 primary comparisons take 7" in words

    code, out, err = mergenet("plan", "tiny.yaml", *where, "--seconds", "4", "--json")
    assert code == 0, err
    forecast = json.loads(out)
    assert forecast["about"] == "tiny at scale tiny: 5 of 10 cells there"
    assert forecast["runs"] == 2 and set(forecast["arms"]) == {"vanilla", "one-way", "frozen"}
    assert sum(forecast["arms"].values()) == pytest.approx(forecast["work_s"][0])
    (unmeasured,) = [line for line in forecast["lines"] if line["like"]]  # there was time for one
    assert unmeasured["name"] == "frozen" and unmeasured["like"] == "vanilla, one-way"
    assert "probe of 2 beside each other" in err and forecast["crowding"] >= 1.0
    assert sorted(folder.rglob("*")) == before and left_behind(tmp_path) == {"copy"}


def test_controls_at_scale_smoke(mergenet: Call, tmp_path: Path) -> None:
    code, out, err = mergenet("plan", "controls", "--scale", "smoke", "--seconds", "4", "--concurrent", "1")
    assert code == 0, err
    words = " ".join(out.split())
    assert "controls at scale smoke: 0 of 12 cells there; 4 runs would train" in words
    assert re.search(r"1: \d+ processors // 1 = \d+, 1 asked for; memory .* a run at its peak = \d+; processors", words)
    assert "5 primary comparisons take 8 (5 x 2 / 2^8 < 0.05): too few" in words
    assert out.splitlines()[-1].endswith("ablate controls --scale smoke --concurrent 1")
    assert all(len(line) <= 80 for line in out.splitlines()[:-1]), out
    assert left_behind(tmp_path) == set()


def test_a_sweep_is_forecast_from_its_cheapest_to_its_dearest(mergenet: Call, tmp_path: Path) -> None:
    code, out, err = mergenet(
        *("plan", "digits-pairing", "training.epochs=1", "budget.trials=7", "--seconds", "4", "--concurrent", "1"),
        "space.transfers.main.to=[target.irb1*]",  # all pairs of all ports take long to check
    )
    assert code == 0, err
    words = " ".join(out.split())
    assert "digits-pairing: 0 of 7 trials there; 7 trials would train" in words
    assert "cheapest: from source.conv1" in words and "dearest: from" in words
    assert "--confirm 6 is one comparison (2 / 2^6 < 0.05)" in words
    assert "sweep digits-pairing training.epochs=1 budget.trials=7 'space.transfers.main" in out.splitlines()[-1]
    assert err.count("probe ") == 2 and left_behind(tmp_path) == set()


# --- named ---------------------------------------------------------------------------------------------------------


def test_no_two_things_that_can_be_planned_have_one_name() -> None:
    counts = Counter([*tables(), *sweeps(), *recipes()])
    assert max(counts.values()) == 1


BAD = [
    ("digits-pairings", "no table, sweep or recipe 'digits-pairings'; nearest is 'digits-pairing'"),
    ("contrls", "no table, sweep or recipe 'contrls'; nearest is 'controls'"),
    ("cifar100-forzen", "no table, sweep or recipe 'cifar100-forzen'; nearest is 'cifar100-frozen'"),
    ("none.yaml", "none.yaml: cannot be read"),
    ("./odd.yaml", "./odd.yaml: has neither `arms` (a table), `space` (a sweep) nor `learners` (a recipe)"),
    ("small.yaml training.epocs=1", "training.epocs: unknown key; nearest is 'epochs'"),
    ("small.yaml --scale smoke", "--scale is of a table, and this is a recipe; leave it out"),
    ("small.yaml --concurrent 2", "--concurrent is of a table or a sweep, and this is a recipe; leave it out"),
    ("controls training.epochs=1", "path=value is of a sweep or a recipe, and this is a table; leave it out"),
    ("controls --workers 2", "--workers is of a recipe, and this is a table; leave it out"),
    ("digits-pairing --seeds 3", "--seeds is of a table or a recipe, and this is a sweep; leave it out"),
    ("controls --scale smok", "--scale smok: controls has no such scale; nearest is 'smoke'"),
    ("controls --scale smoke --threads 999", "a run takes 999 processors, and this machine has"),
    ("controls --scale smoke --concurrent 999", "--concurrent 999: "),
    ("cifar100-frozen", "learners.source.weights: a frozen learner is read from a file"),
    ("cifar100-cross-structure", "data cifar100: needs its folder, --data cifar100=PATH"),
    ("digits-pairing budget.trals=2", "sweep digits-pairing: budget.trals: unknown key; nearest is 'trials'"),
    ("small.yaml --seconds 0", "Invalid value for '--seconds'"),
    ("small.yaml --workers 3", "a run takes 3 processors, and this machine has"),
]


@pytest.mark.parametrize(("line", "start"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    mergenet: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, start: str
) -> None:
    monkeypatch.setattr("cluster.session.available", lambda device: 2)
    code, out, err = mergenet("plan", *line.split(" "))
    assert (code, out) == (2, "")
    assert err.startswith(f"mergenet: {start}") and err.count("\n") == 1
    assert left_behind(tmp_path) == set()


# --- the probe itself ----------------------------------------------------------------------------------------------


def test_a_probe_sees_every_kind_of_tick_however_rare(small: Small, tmp_path: Path) -> None:
    """A learner at half the pace, a transfer that learns at the end of its cycle, one that comes late."""
    change = {
        "learners": {"source": {"training": {"every": 2}}},
        "transfers": {
            "main": {"cycle": 4, "span": "cycle", "start": 0.8},
            "back": {"from": "target.classifier", "to": "source.conv1", "cycle": 50, "encoding": "whole"},
        },
        "training": {"epochs": 40},
    }
    experiment = small(change)
    spec = RunSpec(experiment, 0, {}, tmp_path / "run")
    found = measured(spec, tmp_path, 5.0)
    seen = {(one.happening.steps, one.happening.writes, one.happening.learns) for one in found.ticks}
    both, one = ("source", "target"), ("target",)
    assert {
        (both, (), ()),
        (one, (), ()),
        (both, ("main",), ()),
        (one, (), ("main",)),
        (both, ("back",), ("back",)),
    } <= seen
    assert all(one.measured > 0 and one.seconds > 0 for one in found.ticks)
    assert not found.diverged and not found.stand_ins and not spec.folder.exists()
    assert set(found.validation_s) == set(both) and all(found.validation_s.values())


def test_ticks_are_taken_whole_wherever_they_lie_and_not_more_than_there_is_time_for(
    small: Small, digits: Images
) -> None:
    """A transfer that learns long after it wrote does so in the tick that is measured, from what it wrote."""
    experiment = small({"transfers": {"main": {"cycle": 50, "span": "cycle"}}, "training": {"epochs": 40}})
    data, seed = {"digits": digits}, 0
    plan = make_plan(experiment, seed, data, 1)
    graph = Graph(experiment, plan, data, seed, torch.device("cpu"))
    ticks = _Ticks(graph, experiment, plan)
    ticks.run(until=0.0)
    plain, taught = ticks.timings()
    assert [(bool(one.happening.transfers), one.measured) for one in (plain, taught)] == [(False, 1), (True, 1)]

    ticks = _Ticks(graph, experiment, plan)
    before = graph.edges["main"].transfer.updates
    ticks.run(until=time.time() + 1.0)
    learned = sum(len(kind.seconds) for kind in ticks._kinds if kind.happening.learns)
    assert graph.edges["main"].transfer.updates - before == learned > 0


def test_a_checkpoint_is_as_large_as_that_of_a_run(small: Small, tmp_path: Path) -> None:
    experiment = small({"evaluation": {"weights": "best"}})
    spec = RunSpec(experiment, 0, {}, tmp_path / "run")
    execute(spec, Silent())
    (written,) = checkpoints(spec.folder / "checkpoints")
    real = sum(file.stat().st_size for file in written.iterdir())
    assert measured(spec, tmp_path).checkpoint_bytes == pytest.approx(real, rel=0.02)


def test_weights_that_another_run_is_to_train_are_stood_in_for(small: Small, tmp_path: Path) -> None:
    file, origins = tmp_path / "trained.safetensors", {"source": Origin("cell", 10)}
    frozen = small({"learners": {"source": {"frozen": True, "task": None, "weights": str(file)}}})
    spec = RunSpec(frozen, 0, {}, tmp_path / "run", origins=origins)
    found = measured(spec, tmp_path)
    assert found.stand_ins == ("source",) and not file.exists()
    assert {bool(one.happening.transfers) for one in found.ticks} == {True, False}
    began = RunSpec(small({"learners": {"source": {"weights": str(file)}}}), 0, {}, tmp_path / "run", origins=origins)
    (tmp_path / "second").mkdir()
    assert measured(began, tmp_path / "second").stand_ins == ("source",)
    save_file(find_model("resnet18-narrow").build(10).state_dict(), file)
    (tmp_path / "third").mkdir()
    assert measured(spec, tmp_path / "third").stand_ins == ()


def test_a_learner_that_diverges_under_the_probe_is_named(small: Small, tmp_path: Path) -> None:
    experiment = small({"training": {"epochs": 9, "optimizer": {"sgd": {"lr": 1e30}}, "schedule": "constant"}})
    found = measured(RunSpec(experiment, 0, {}, tmp_path / "run"), tmp_path)
    assert {"source", "target"} & set(found.diverged)


def test_workers_that_share_a_batch_are_measured_together(small: Small, tmp_path: Path) -> None:
    found = probe(RunSpec(small({"transfers": {"main": {"enabled": False}}}), 0, {}, tmp_path / "run"), 3.0, workers=2)
    assert found.workers == 2 and all(one.seconds > 0 for one in found.ticks)


def test_a_probe_that_cannot_run_says_why(small: Small, tmp_path: Path) -> None:
    spec = RunSpec(small(), 0, {"digits": str(tmp_path)}, tmp_path / "run")
    assert refusal(lambda: probe(spec, 5.0)).startswith("data digits: comes with scikit-learn")
    assert str(_failure(-9, "")) == "its process was ended by signal 9 (out of memory?)"
    other = _failure(1, "Traceback\nRuntimeError: no\n")
    assert isinstance(other, ProbeFailed) and str(other) == "RuntimeError: no"

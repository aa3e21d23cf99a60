"""The ledger is the truth about a sweep: what a sampler knows follows from it, whatever died."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from mergenet.training import files
from mergenet.training.files import is_being_written
from tests.refused import refusal
from tests.sweeps import lived, of_kind, planned, space_of, tiny
from tune.search.begin import open_ledger, plan_again
from tune.search.ledger import Ledger, Trial, asked, ended, find_log, read_log, refused, trials_of
from tune.search.memory import Memory
from tune.search.plan import Setting
from tune.search.searcher import Halving
from tune.search.sweep import Asha

SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": {"tpe": {"startup": 4}}},
    "random": {"sampler": "random"},
    "qmc": {"sampler": "qmc"},
    "tpe of two": {
        "sampler": {"tpe": {"startup": 4}},
        "objectives": {"target.loss": "lower", "adapter.parameters": "lower"},
    },
    "nsga2": {
        "sampler": {"nsga2": {"population": 4}},
        "objectives": {"target.loss": "lower", "adapter.parameters": "lower"},
    },
    "exhaustive": {
        "sampler": "exhaustive",
        "space": {"transfers.main.optimizer.adamw.lr": {"values": {"of": [1e-4, 1e-3]}}},
    },
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sweep_that_died_anywhere_goes_on_as_one_that_did_not(name: str, tmp_path: Path) -> None:
    sweep = tiny(tmp_path, SAMPLERS[name])
    space = space_of(sweep)
    whole = lived(sweep, space, trials=24)
    assert len(of_kind(whole, "refused")) >= 3 and len(of_kind(whole, "ended")) == 24
    for died in (1, 2, 9, 30, len(whole) - 1):
        assert lived(sweep, space, 24, whole[:died]) == whole, f"after {died} events"


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_seed_draws_other_points_and_more_trials_go_on(name: str, tmp_path: Path) -> None:
    sweep = tiny(tmp_path, SAMPLERS[name])
    space = space_of(sweep)
    short, long = lived(sweep, space, 8), lived(sweep, space, 12)
    asked_short, asked_long = of_kind(short, "asked"), of_kind(long, "asked")
    assert asked_long[:8] == asked_short
    assert len({json.dumps(event["point"]) for event in asked_long}) > 8, "every draw has numbers of its own"
    other = lived(tiny(tmp_path, {**SAMPLERS[name], "seed": 1}), space, 8)
    assert [event["point"] for event in of_kind(other, "asked")] != [event["point"] for event in asked_short]


def test_tpe_learns_from_what_it_was_told(tmp_path: Path) -> None:
    """Points drawn after good news of a small cycle have smaller ones than random draws do."""
    sweep = tiny(
        tmp_path,
        {"sampler": {"tpe": {"startup": 10}}, "space": {"transfers.main.cycle": {"int": {"low": 1, "high": 100}}}},
    )
    space = space_of(sweep)
    cycles = [event["point"]["transfers.main.cycle"] for event in of_kind(lived(sweep, space, 40), "asked")]
    assert sum(cycles[20:]) / 20 < 0.6 * sum(cycles[:10]) / 10


def test_an_exhaustive_search_draws_every_point_once(tmp_path: Path) -> None:
    change = {
        "sampler": "exhaustive",
        "space": {
            "transfers.main.encoding.svd.rank": {"values": {"of": [1, 2]}},
            "transfers.main.cycle": {"values": {"of": [1, 2]}},
            "transfers.main.optimizer.adamw.lr": {"values": {"of": [1e-4]}},
        },
    }
    sweep = tiny(tmp_path, change)
    events = lived(sweep, space_of(sweep), 6, refuse=10**6)
    points = {json.dumps(event["point"], sort_keys=True) for event in of_kind(events, "asked")}
    assert len(points) == 6, "two encodings, one of them with two ranks, two cycles"


# --- told as what it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "objectives", "optuna", "values"),
    [
        ("finished", 1, TrialState.COMPLETE, {}),
        ("stopped", 1, TrialState.PRUNED, {1: 0.5, 2: 0.25}),
        ("diverged", 1, TrialState.PRUNED, {}),
        ("failed", 1, TrialState.FAIL, {}),
        ("stopped", 2, TrialState.FAIL, {}),
        ("diverged", 2, TrialState.FAIL, {}),
    ],
)
def test_the_sampler_is_told_how_a_trial_ended(
    state: Any, objectives: int, optuna: TrialState, values: dict[int, float], tmp_path: Path
) -> None:
    both = {"objectives": {"target.loss": "lower", "adapter.parameters": "lower"}} if objectives == 2 else {}
    sweep = tiny(tmp_path, both)
    memory = Memory(sweep, space_of(sweep))
    draw, point = memory.draw()
    memory.begin(0, draw)
    final = (0.125, 7.0)[:objectives] if state == "finished" else None
    memory.tell(Trial(0, point, {}, "", state, final, curve=((1, 0.5), (2, 0.25))))
    (trial,) = memory.study.trials
    assert (trial.state, trial.intermediate_values) == (optuna, values)
    if state == "finished":
        assert trial.values == list(final or ())


def test_earlier_trials_count_on_the_rungs_of_those_that_follow() -> None:
    """A trial that is worse than all that an earlier driver saw is stopped by the next one too."""

    def decision(earlier: list[Trial]) -> str:
        halving = Halving(Asha(grace=1, factor=2), "lower", epochs=8)
        halving.live_through(earlier)
        late = SimpleNamespace(trial_id="late")
        halving.on_trial_add(None, late)
        return halving.on_trial_result(None, late, {"epoch": 1, "value": 9.0})

    seen = [Trial(number, {}, {}, "", "finished", curve=((1, float(number)), (2, 0.5))) for number in range(4)]
    assert (decision([]), decision(seen)) == ("CONTINUE", "STOP")


# --- the files ---------------------------------------------------------------------------------------------------


def begun(tmp_path: Path) -> Path:
    """The folder of a sweep with one trial that ended and one that did not."""
    plan = planned(tmp_path)
    ledger = open_ledger(plan, resume=False)
    first, second = (Trial(number, {"transfers.main.cycle": 1 + number}, {}, f"run-{number}") for number in range(2))
    ledger.note(asked(first))
    ledger.note(refused({"transfers.main.cycle": 3}, "for a test"))
    ledger.note(asked(second))
    ledger.note(ended(Trial(0, {}, {}, "", "finished", (0.5,), None, ((1, 0.75), (2, 0.5)), 3.0)))
    ledger.close()
    return plan.folder


def test_what_is_noted_is_read_back(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    log = read_log(folder)
    first, second = log.trials()
    assert (first.state, first.values, first.curve, first.seconds) == ("finished", (0.5,), ((1, 0.75), (2, 0.5)), 3.0)
    assert (second.state, second.values, second.run) == ("running", None, "run-1")
    assert first.began is not None and first.over is not None and first.over >= first.began
    assert log.sweep.name == "tiny" and log.setting == Setting() and log.runs == tmp_path / "runs"
    assert find_log(tmp_path / "runs", "tiny") == folder and find_log(tmp_path / "runs", str(folder)) == folder


def test_a_line_that_a_death_cut_short_is_taken_back(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"event": "ended", "trial": 1, "sta')
    assert [trial.state for trial in read_log(folder).trials()] == ["finished", "running"]
    ledger = Ledger(folder)
    ledger.note(ended(Trial(1, {}, {}, "", "failed", reason="for a test")))
    ledger.close()
    assert [trial.state for trial in read_log(folder).trials()] == ["finished", "failed"]
    assert all(json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines())


def test_an_event_is_on_disk_when_noting_it_returns(tmp_path: Path) -> None:
    ledger = open_ledger(planned(tmp_path), resume=False)
    ledger.note(asked(Trial(0, {}, {}, "run-0")))
    assert len(trials_of(read_log(ledger.folder).events)) == 1
    ledger.close()


def test_two_drivers_cannot_write_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    plan = planned(tmp_path)
    ledger = open_ledger(plan, resume=False)
    assert is_being_written(plan.folder)
    assert "another process is writing this sweep" in refusal(lambda: open_ledger(plan, resume=True))
    ledger.close()
    open_ledger(plan, resume=False).close()


def test_who_goes_on_waits_for_the_lock_of_a_node_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SAID_AFTER_S", 0.1)
    plan, said = planned(tmp_path), list[str]()
    ledger = open_ledger(plan, resume=False)
    released = threading.Timer(1.0, ledger.close)
    released.start()
    open_ledger(plan, resume=True, say=said.append).close()
    released.join()
    assert said == [f"{plan.folder}: another process is writing it; waiting 120 s for it to let go"]


def test_an_event_that_cannot_be_noted_is_no_failure_of_a_trial(tmp_path: Path) -> None:
    """Tune tries those again; what is noted next would be written behind half a line."""
    ledger = open_ledger(planned(tmp_path), resume=False)
    (ledger.folder / "trials.jsonl").mkdir()
    assert "cannot be written: Is a directory" in refusal(lambda: ledger.note(asked(Trial(0, {}, {}, "run-0"))))
    assert ledger.events == []
    ledger.close()


def test_a_sweep_that_did_not_end_is_taken_up_only_when_that_is_said(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    plan = planned(tmp_path)
    assert "has 1 trial that did not end: go on with --resume" in refusal(lambda: open_ledger(plan, resume=False))
    assert not is_being_written(folder), "it is let go"
    open_ledger(plan, resume=True).close()
    assert plan_again(read_log(folder), {}).hash == plan.hash


def test_a_sweep_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    other = planned(tmp_path, setting=Setting(threads=2))
    assert "began with --workers-per-trial 1 --threads 1" in refusal(lambda: open_ledger(other, resume=True))
    definition = json.loads((folder / "sweep.json").read_text())
    definition["experiment"]["training"]["epochs"] = 9
    (folder / "sweep.json").write_text(json.dumps(definition))
    assert "are not those the sweep began with" in refusal(lambda: plan_again(read_log(folder), {}))


def test_the_number_of_trials_may_grow(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    open_ledger(plan, resume=False).close()
    open_ledger(plan.with_trials(50), resume=False).close()
    assert read_log(plan.folder).sweep.budget.trials == 50


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("sweep.json", "{", "sweep.json: broken"),
        ("sweep.json", '{"sweep": {}}', "sweep.json: broken"),
        ("trials.jsonl", "{\n", "trials.jsonl: broken"),
    ],
)
def test_broken_files_are_named(file: str, text: str, line: str, tmp_path: Path) -> None:
    folder = begun(tmp_path)
    (folder / file).write_text(text)
    assert line in refusal(lambda: read_log(folder))


def test_a_name_that_was_swept_in_two_ways_or_never_is_answered(tmp_path: Path) -> None:
    begun(tmp_path)
    assert "holds no sweep 'tinny'" in refusal(lambda: find_log(tmp_path / "runs", "tinny"))
    open_ledger(planned(tmp_path, {"seed": 1}), resume=False).close()
    assert "tiny was swept 2 times, with other settings: name one of" in refusal(
        lambda: find_log(tmp_path / "runs", "tiny")
    )

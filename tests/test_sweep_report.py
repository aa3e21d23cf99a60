"""What the report of a sweep says of trials that are made by hand."""

import csv
import html
import io
import random
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from pyarrow import parquet

from mergenet.config import parse
from tune.report.drawing import STYLE, Plot, svg
from tune.report.sweep import markdown, write_sweep_report
from tune.report.sweep.findings import findings_of
from tune.report.sweep.importance import importance_of
from tune.report.sweep.names import short_names
from tune.report.sweep.outcome import outcome_of
from tune.report.sweep.plots import plots_of
from tune.report.sweep.remarks import DASH
from tune.search.ledger import Log, Trial, asked, ended, refused
from tune.search.plan import Setting
from tune.search.sweep import Sweep

CYCLE, LR, FORM = "transfers.main.cycle", "transfers.main.optimizer.adamw.lr", "transfers.main.adapter.lpka.form"
ENCODING, RANK = "transfers.main.encoding", "transfers.main.encoding.svd.rank"
FROM, TO = "transfers.main.from", "transfers.main.to"
NUMBERS: dict[str, Any] = {
    CYCLE: {"int": {"low": 1, "high": 16, "log": True}},
    LR: {"float": {"low": 1e-5, "high": 1e-2, "log": True}},
    FORM: ["gated", "paper"],
}
CONDITIONAL: dict[str, Any] = {ENCODING: ["whole", "svd"], RANK: {"int": {"low": 2, "high": 16}}}
PORTS: dict[str, Any] = {FROM: ["source.classifier", "source.layer4.0.conv1"], TO: ["target.classifier", "target.irb7"]}
TOP1, COST = {"target.top1": "higher"}, {"adapter.parameters": "lower"}
VALUES: dict[str, Any] = {
    "name": "by-hand",
    "learners": {"source": {"model": "resnet18-narrow"}, "target": {"model": "mobilenet_v2-narrow"}},
    "transfers": {"main": {"from": "source.classifier", "to": "target.classifier", "adapter": "lpka"}},
}


def log_of(trials: Iterable[Trial], space: Mapping[str, Any] = NUMBERS, **changes: Any) -> Log:
    """A sweep of these trials; `changes` are of the sweep, but for `refusals` and `left_out`."""
    refusals, left_out = changes.pop("refusals", ()), changes.pop("left_out", {})
    plain = {"name": "by-hand", "title": "By hand", "experiment": "cifar100-cross-structure", "objectives": TOP1}
    sweep = parse(Sweep, {**plain, "space": dict(space), "sampler": "random", **changes})
    events = [{**refused({}, reason), "at": 0.0} for reason in refusals]
    for trial in trials:
        events.append({**asked(trial), "at": 1.0})
        events += [{**ended(trial), "at": 2.0}] if trial.state != "running" else []
    layers, setting = (("name", "by-hand"), ("training.epochs", 3)), Setting()
    made_with = {"torch": "2.11", "gpu": None, "processors": 2}
    return Log(Path("/runs/by-hand/sweep-01"), sweep, VALUES, layers, setting, {}, left_out, made_with, tuple(events))


def trial(number: int, *values: float, state: Any = "finished", point: Mapping[str, Any] | None = None) -> Trial:
    """That finished with these values, or else has them as its curve."""
    here = {CYCLE: 1 + number % 16, LR: 1e-4 * (1 + number % 7), FORM: ("gated", "paper")[number % 2]}
    here = dict(here if point is None else point)
    run = f"{number:08x}-s0"
    if state == "finished":
        return Trial(number, here, here, run, state, values, None, ((1.0, 1.0), (2.0, values[0])), 12.5)
    reason = None if state == "running" else f"{state}, as it had to be"
    return Trial(number, here, here, run, state, None, reason, tuple(enumerate(map(float, values), start=1)))


def sampled(count: int = 60) -> list[Trial]:
    """Random points of which the rate alone decides."""
    draws = random.Random(3)
    points = [
        {CYCLE: draws.randint(1, 16), LR: 10 ** draws.uniform(-5, -2), FORM: draws.choice(["gated", "paper"])}
        for _ in range(count)
    ]
    return [trial(number, -abs(point[LR] - 1e-3) * 1e3, point=point) for number, point in enumerate(points)]


def conditional(count: int) -> list[Trial]:
    """A rank where there is an svd; two objectives, and every third trial did not finish."""
    trials = []
    for number in range(count):
        point = {ENCODING: "svd", RANK: 2 + number % 15} if number % 2 else {ENCODING: "whole"}
        state = ("finished", "finished", ("stopped", "diverged", "failed", "running")[number // 3 % 4])[number % 3]
        values = (50.0 + number % 7, 1000.0 * (1 + number % 5)) if state == "finished" else (30.0, 31.0 + number)
        trials.append(trial(number, *values, state=state, point=point))
    return trials


def paired(count: int) -> list[Trial]:
    """Ports alone."""
    ends = [(source, target) for source in PORTS[FROM] for target in PORTS[TO]]
    return [trial(n, 50.0 + n, point=dict(zip((FROM, TO), ends[n % 3], strict=True))) for n in range(count)]


LONG = ["a label that goes on and on, " * 4, "another one which is just as long | <b>" * 3]
CASES: dict[str, Log] = {
    "nothing": log_of([]),
    "one": log_of([trial(0, 50.0)]),
    "one-running": log_of([trial(0, state="running")]),
    "all-failed": log_of([trial(n, state="failed") for n in range(4)]),
    "half-failed": log_of(
        [trial(n, *([50.0 + n] if n % 2 else []), state=("failed", "finished")[n % 2]) for n in range(8)]
    ),
    "all-stopped": log_of([trial(n, 30.0 + n, state="stopped") for n in range(4)], scheduler="asha"),
    "all-equal": log_of([trial(n, 50.0, point={CYCLE: 4, LR: 1e-3, FORM: "paper"}) for n in range(12)]),
    "conditional": log_of(conditional(40), CONDITIONAL, objectives={**TOP1, **COST}, scheduler="asha", sampler="tpe"),
    "two-measured": log_of(
        [trial(n, 50.0 + n, 9.0 - n) for n in range(4)], objectives={**TOP1, "source.top1": "higher"}
    ),
    "ports": log_of(paired(12), PORTS, left_out={"main": {"source.layer4.0.conv1 -> target.irb7": "do not meet"}}),
    "long": log_of([trial(n, 1.0 * n, point={FORM: LONG[n % 2]}) for n in range(12)], {FORM: LONG}),
    "other-script": log_of([trial(0, 1.0), trial(1, 2.0)], title="どの層が教えるか"),
}


def pages(log: Log, folder: Path) -> str:
    """The HTML page."""
    return next(path for path in write_sweep_report(log, folder) if path.name == "index.html").read_text()


# --- whatever came of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_report_is_made_of_whatever_came_of_a_sweep(case: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_sweep_report(CASES[case], tmp_path / "new" / case)
    names = {path.name for path in written}
    assert set(written) == set((tmp_path / "new" / case).iterdir())
    assert names - {f"{name}.png" for name in plots_of(outcome_of(CASES[case]))} == {
        *("report.md", "trials.csv", "trials.parquet", "index.html")
    }
    assert (tmp_path / "new" / case / "report.md").read_text() == markdown(CASES[case])


@pytest.mark.parametrize(
    ("case", "plots"),
    [
        ("nothing", []),
        ("all-failed", []),
        ("one", ["history", "curves", "slices"]),
        ("all-stopped", ["history", "epochs", "curves", "slices"]),
        ("conditional", ["history", "epochs", "front", "curves", "slices", "parallel"]),
        ("ports", ["history", "pairs-main", "slices", "parallel"]),
    ],
)
def test_there_are_plots_of_what_there_is_to_draw(case: str, plots: list[str]) -> None:
    assert list(plots_of(outcome_of(CASES[case]))) == plots


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    log = CASES["conditional"]
    first, second = (write_sweep_report(log, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_report_that_cannot_be_made_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_sweep_report(log_of([trial(0, 50.0)], objectives={**TOP1, **COST}), tmp_path / "report")
    assert not list(tmp_path.iterdir())


# --- which are best ----------------------------------------------------------------------------------------------


def best(log: Log) -> list[int]:
    """Numbers, in their order."""
    return [int(row[0]) for row in findings_of(outcome_of(log)).best.rows]


def test_the_best_finished_come_first_and_no_other_trial_is_among_them() -> None:
    others = [trial(20, 99.0, state="stopped"), trial(21, 99.0, state="diverged"), trial(22, 99.0, state="running")]
    finished = [trial(n, value) for n, value in enumerate([3.0, 9.0, 1.0, 9.0])]
    assert best(log_of([*finished, *others])) == [1, 3, 0, 2]
    assert best(log_of([*finished, *others], objectives={"target.loss": "lower"})) == [2, 0, 1, 3]
    assert best(log_of([trial(n, float(n)) for n in range(15)])) == list(range(14, 4, -1))


def test_with_two_objectives_it_is_the_front_that_is_shown() -> None:
    values = {0: (60.0, 100.0), 1: (50.0, 10.0), 2: (60.0, 90.0), 3: (55.0, 95.0), 4: (40.0, 10.0), 5: (55.0, 20.0)}
    trials = [trial(number, *pair) for number, pair in values.items()]
    trials += [trial(6, 55.0, 20.0), trial(7, 99.0, state="stopped")]
    log = log_of(trials, objectives={**TOP1, **COST})
    assert best(log) == [2, 5, 6, 1]
    assert best(log_of(trials, objectives={"target.top1": "higher", "source.top1": "higher"})) == [0]
    assert "## Pareto front" in markdown(log) and "## Best trials" not in markdown(log)


def test_a_parameter_that_a_trial_has_not_is_a_dash_and_ports_are_whole() -> None:
    heads, (first, *_) = (table := findings_of(outcome_of(CASES["conditional"])).best).heads, table.rows
    assert heads == ("trial", "target.top1", "adapter.parameters", "encoding", "rank", "run")
    assert {row[3:5] for row in table.rows} <= {("whole", DASH), *(("svd", str(rank)) for rank in range(2, 17))}
    assert first[0] == "6" and first[1:3] == ("56.0", "2,000")
    assert "| source.layer4.0.conv1 " in markdown(CASES["ports"])


# --- importance --------------------------------------------------------------------------------------------------


def test_importance_finds_the_parameter_that_matters_and_ignores_what_did_not_finish() -> None:
    log = log_of(sampled())
    shares = importance_of(outcome_of(log)).shares["target.top1"]
    assert shares[LR] > 0.6 and sum(shares.values()) == pytest.approx(1.0)
    misleading = [trial(100 + n, 99.0, state="stopped", point={CYCLE: 3, LR: 1e-5, FORM: "paper"}) for n in range(30)]
    with_stopped = importance_of(outcome_of(log_of([*sampled(), *misleading])))
    assert with_stopped == importance_of(outcome_of(log))
    assert "PED-ANOVA on 60 finished trials" in markdown(log) and "It is no cause" in " ".join(markdown(log).split())


def test_importance_turns_an_objective_that_is_better_lower() -> None:
    turned = [trial(one.number, -(one.values or (0.0,))[0], point=one.point) for one in sampled()]
    lower = importance_of(outcome_of(log_of(turned, objectives={"target.loss": "lower"}))).shares["target.loss"]
    assert lower == importance_of(outcome_of(log_of(sampled()))).shares["target.top1"]


def test_importance_is_not_told_of_few_trials_nor_of_equal_ones() -> None:
    few = markdown(log_of(sampled(9)))
    assert "it takes 10 finished trials to say anything, and there are 9" in few
    assert "Not computed: the finished trials do not differ" in markdown(CASES["all-equal"])
    assert "Not computed" not in markdown(log_of(sampled(10)))


def test_importance_has_a_column_an_objective_and_none_for_a_parameter_of_one_value() -> None:
    trials = [
        trial(one.number, *(one.values or ()), 1.0 + one.point[CYCLE], point={**one.point, FORM: "paper"})
        for one in sampled()
    ]
    table = findings_of(outcome_of(log_of(trials, objectives={**TOP1, **COST}))).importance
    assert table.heads == ("parameter", "target.top1", "adapter.parameters")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["form"] == (DASH, DASH) and list(rows)[-1] == "form"
    assert float(rows["lr"][0]) > 0.7 and float(rows["cycle"][1]) > 0.7


def test_importance_of_a_conditional_parameter_is_told_and_an_adaptive_sampler_is_warned_of() -> None:
    text = " ".join(markdown(CASES["conditional"]).split())
    shares = importance_of(outcome_of(CASES["conditional"])).shares["target.top1"]
    assert shares[RANK] > 0.0
    assert "which biases the shares: `sampler=random`" in text
    assert "biases the shares" not in markdown(log_of(sampled()))


# --- what is said ------------------------------------------------------------------------------------------------


def test_no_claim_is_made_and_the_way_to_one_is_named() -> None:
    text = " ".join(markdown(CASES["ports"]).split())
    assert "**No claim follows from these figures: they are of the validation split and of one seed." in text
    assert "The best of 12 trials is also the luckiest" in text
    assert "`mergenet sweep --resume by-hand --confirm 6`" in text
    assert "**No trial has finished yet" in markdown(CASES["all-failed"])


def test_trials_are_counted_and_refusals_told_by_their_commonest_reasons() -> None:
    refusals = ["the same as trial 3"] * 2 + ["the same as trial 14", "rank is too high", "a", "b", "c"]
    left_out = {"main": {"source.a -> target.b": "do not meet", "source.a -> target.c": "do not meet"}}
    trials = [trial(0, 1.0), trial(1, 1.0, state="stopped"), trial(2, state="failed"), trial(3, state="running")]
    facts = findings_of(outcome_of(log_of(trials, refusals=refusals, left_out=left_out))).facts
    assert facts == (
        "4 trials begun, of 30: 1 finished, 1 stopped early, 1 failed, 1 still running.",
        "7 points drawn but refused: 3 x the same as trial 3 (or another number); 1 x rank is too high; 1 x a; "
        "2 for other reasons.",
        "2 pairs of ports left out before the search: 2 x do not meet.",
    )


def test_those_that_did_not_finish_are_listed_with_their_reasons() -> None:
    trials = [trial(0, 1.0), trial(1, 7.0, 8.0, state="stopped"), trial(2, state="failed"), trial(4, state="failed")]
    ended_as = {one.title: one.reasons for one in findings_of(outcome_of(log_of(trials))).ended}
    assert ended_as == {
        "Stopped early": (("stopped, as it had to be", "1 (last 8.00)"),),
        "Failed": (("failed, as it had to be", "2, 4"),),
    }


def test_every_command_is_the_one_that_runs_its_trial_again(tmp_path: Path) -> None:
    log = CASES["conditional"]
    wanted = [log.command(one) for one in outcome_of(log).best]
    assert len(wanted) > 1
    assert re.findall(r"^      (mergenet train .*)$", markdown(log), re.MULTILINE) == wanted
    page = pages(log, tmp_path)
    assert [html.unescape(one) for one in re.findall(r"<pre><code>(.*?)</code></pre>", page)] == wanted
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [row["command"] for row in rows] == [log.command(one) for one in log.trials()]


def test_short_names_are_as_long_as_they_must_be() -> None:
    paths = ["transfers.a.cycle", "transfers.b.cycle", "transfers.a.encoding.svd.rank", "training.epochs"]
    names = ["a.cycle", "b.cycle", "rank", "training.epochs", "x.training.epochs"]
    assert list(short_names([*paths, "learners.x.training.epochs"]).values()) == names


# --- as data -----------------------------------------------------------------------------------------------------


def test_the_trials_come_back_from_parquet_with_their_types(tmp_path: Path) -> None:
    heads, mixed = "transfers.main.adapter.lpka.heads", "transfers.main.adapter.lpka.width"
    space = {**NUMBERS, heads: [2, 4], mixed: [64, "as wide as it is", True]}
    points = [
        {CYCLE: 3, LR: 1e-3, FORM: "paper", heads: 4, mixed: 64},
        {CYCLE: 2, LR: 0.01, FORM: "gated", heads: 2, mixed: True},
    ]
    trials = [trial(0, 51.5, point=points[0]), trial(1, 30.0, 31.25, state="stopped", point=points[1])]
    log = log_of(trials, space)
    write_sweep_report(log, tmp_path)
    first, second = parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert first == {
        **{"sweep": "by-hand", "number": 0, "state": "finished", "reason": None, "target.top1": 51.5},
        **{CYCLE: 3, LR: 1e-3, FORM: "paper", heads: 4, mixed: "64"},
        **{
            "run": "00000000-s0",
            "workers": None,
            "seconds": 12.5,
            "epoch": 2,
            "last": 51.5,
            "command": log.command(trials[0]),
        },
    }
    assert (second["state"], second["reason"], second["target.top1"]) == ("stopped", "stopped, as it had to be", None)
    assert (second["epoch"], second["last"], second[mixed], second["seconds"]) == (2, 31.25, "true", None)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [*rows[0]] == [*first] and float(rows[1][LR]) == 0.01 and rows[1]["target.top1"] == ""


def test_a_sweep_without_trials_has_its_columns(tmp_path: Path) -> None:
    write_sweep_report(CASES["nothing"], tmp_path)
    table = parquet.read_table(tmp_path / "trials.parquet")
    assert table.num_rows == 0 and {CYCLE, LR, "target.top1", "command"} <= set(table.column_names)
    assert (tmp_path / "trials.csv").read_text().splitlines() == [",".join(table.column_names)]


# --- the plots ---------------------------------------------------------------------------------------------------


def drawn(log: Log, name: str) -> Any:
    """The figure of a plot."""
    with matplotlib.rc_context(STYLE):
        return plots_of(outcome_of(log))[name].draw()


def test_a_cell_is_the_mean_of_its_finished_trials_and_says_how_many() -> None:
    ends = {FROM: "source.classifier", TO: "target.irb7"}
    trials = [trial(0, 40.0, point=ends), trial(1, 60.0, point=ends), trial(2, 99.0, state="stopped", point=ends)]
    trials += [trial(3, 70.0, point={**ends, TO: "target.classifier"})]
    axes, bar = drawn(log_of(trials, PORTS), "pairs-main").axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(1.0, 0.0): "2", (0.0, 0.0): "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["classifier"]
    assert bar.get_ylim() == (50.0, 70.0)


def test_pairs_that_cannot_be_joined_are_hatched_and_those_that_did_not_finish_crossed() -> None:
    crossed = {FROM: "source.layer4.0.conv1", TO: "target.irb7"}
    here = {FROM: "source.classifier", TO: "target.classifier"}
    pairs = ("source.classifier -> target.irb7", "source.classifier -> target.not-tried")
    left_out = {"main": dict.fromkeys(pairs, "no"), "other": {"source.classifier -> target.classifier": "no"}}
    trials = [trial(0, 40.0, point=here), trial(1, state="failed", point=crossed)]
    axes = drawn(log_of(trials, PORTS, left_out=left_out), "pairs-main").axes[0]
    assert [patch.get_xy() for patch in axes.patches if patch.get_hatch()] == [(0.5, -0.5)]
    assert [tuple(map(float, line.get_xydata()[0])) for line in axes.lines] == [(1.0, 1.0)]


def test_the_history_marks_every_state_and_its_line_is_of_the_finished() -> None:
    trials = [trial(0, 50.0), trial(1, 99.0, state="stopped"), trial(2, state="failed"), trial(3, 55.0), trial(4, 52.0)]
    figure = drawn(log_of(trials), "history")
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "best finished so far"]
    assert list(line.get_xdata()) == [0, 3, 4] and list(line.get_ydata()) == [50.0, 55.0, 55.0]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["finished", "stopped early, at its last figure", "failed", "best finished so far"]
    hollow = figure.axes[0].collections[1]
    assert hollow.get_offsets().tolist() == [[1.0, 99.0]] and len(hollow.get_facecolors()) == 0


def test_the_front_is_what_its_line_goes_through() -> None:
    pairs = [(60.0, 90.0), (55.0, 20.0), (50.0, 95.0), (40.0, 10.0)]
    log = log_of([trial(n, *pair) for n, pair in enumerate(pairs)], objectives={**TOP1, **COST})
    axes = drawn(log, "front").axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[10.0, 40.0], [20.0, 55.0], [90.0, 60.0]]
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert axes.get_xscale() == "log" and len(axes.collections[0].get_offsets()) == 4


def test_a_curve_is_the_median_at_each_value_or_of_parts() -> None:
    depth = "transfers.main.adapter.lpka.depth"
    space = {depth: {"int": {"low": 1, "high": 3}}}
    trials = [trial(n, float(n), point={depth: 1 + n % 2}) for n in range(9)]
    trials += [trial(20, 99.0, state="stopped", point={depth: 3})]
    line = drawn(log_of(trials, space), "curves").axes[0].lines[0]
    assert line.get_xydata().tolist() == [[1.0, 4.0], [2.0, 4.0]]
    many = [trial(n, float(n), point={CYCLE: n + 1, LR: 1e-3, FORM: "paper"}) for n in range(16)]
    line = drawn(log_of(many), "curves").axes[0].lines[0]
    assert line.get_xydata().tolist() == [[1.0, 0.0], [2.5, 1.5], [5.5, 4.5], [12.0, 11.0]]


# --- the page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["conditional", "ports"])
def test_the_page_needs_nothing_from_outside(case: str, tmp_path: Path) -> None:
    page = pages(CASES[case], tmp_path)
    assert page.count("<svg") == len(plots_of(outcome_of(CASES[case])))
    assert not re.search(r"<(script|link|iframe|img|image)\b|\bsrc=|@import|url\((?!#)", page)
    assert all(not target.startswith(("http", "//", "data:")) for target in re.findall(r'href="([^"]*)"', page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page)) != set()
    used = {one or other for one, other in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page)}
    assert used <= set(ids)


def test_odd_text_is_only_text(tmp_path: Path) -> None:
    odd = "<script>alert('x')</script> | *so* `it` [goes](there)\n# on"
    failed = Trial(1, {FORM: odd}, {FORM: odd}, "b-s0", "failed", None, odd)
    space = {FORM: [odd, "plain"]}
    good = [trial(n, 1.0 * n, point={FORM: (odd, "plain")[n % 2]}) for n in range(2, 5)]
    log = log_of([failed, *good], space, title=odd, refusals=[odd], left_out={"main": {"a -> b": odd}})
    page = pages(log, tmp_path)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6
    lines = markdown(log).splitlines()
    assert lines[0] == r"# \<script>alert('x')\</script> \| \*so\* \`it\` \[goes\](there) # on"
    assert [line for line in lines if line.startswith("#")][1:] == [
        "## Best trials",
        "## Importance",
        "## Failed",
        "## Searched",
    ]
    tables = [line for line in lines if re.match(r"\d+ +\|", line)]
    assert len(tables) == 3 and {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {3}


def test_a_plot_is_set_into_the_page_without_a_raster() -> None:
    for name, plot in plots_of(outcome_of(CASES["ports"])).items():
        assert isinstance(plot, Plot) and plot.caption.endswith(".")
        assert "<image" not in svg(plot, name)

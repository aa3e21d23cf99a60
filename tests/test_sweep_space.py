"""What a sweep may say, and which points its space has."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mergenet.config import as_yaml, in_line, parse, read_override, read_yaml
from mergenet.experiment import Experiment, load_experiment
from tests.refused import refusal
from tests.sweeps import planned, space_of, tiny
from tune.search.plan import Setting, plan_sweep, room_for
from tune.search.space import make_space
from tune.search.sweep import Ints, Sweep, Values, label_of, load_sweep, sweeps
from tune.table import tables

ENCODING, RANK = "transfers.main.encoding", "transfers.main.encoding.svd.rank"
PORTS = [
    "source.classifier",
    "source.layer3.0.conv1",
    "source.layer4.0.conv1",
    "source.layer4.1.conv2",
    "target.irb1",
    "target.irb16",
]


def listed(*values: Any) -> dict[str, Any]:
    """One of these."""
    return {"values": {"of": list(values)}}


def ints(low: int, high: int) -> dict[str, Any]:
    """Whole numbers."""
    return {"int": {"low": low, "high": high}}


class Drawn:
    """Draws what it is told, in the order it is asked; keeps what was asked for."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.asked: list[tuple[Any, ...]] = []

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked.append((name, low, high, step, log))
        return int(self.values.pop(0))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append((name, low, high, log))
        return float(self.values.pop(0))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.asked.append((name, *choices))
        return self.values.pop(0)


# --- points ------------------------------------------------------------------------------------------------------


def test_an_option_is_part_of_a_point_only_where_its_choice_is_taken(tmp_path: Path) -> None:
    space = space_of(tiny(tmp_path))
    with_rank, without = Drawn("svd", 4, 2, 1e-4), Drawn("whole", 2, 1e-4)
    assert space.draw(with_rank)[RANK] == 4
    assert RANK not in space.draw(without)
    assert [asked[0] for asked in without.asked] == [
        ENCODING,
        "transfers.main.cycle",
        "transfers.main.optimizer.adamw.lr",
    ]
    assert with_rank.asked[1] == (RANK, 1, 8, 1, True)


def test_a_choice_comes_before_what_is_part_of_it_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    sweep = tiny(tmp_path)
    backwards = dict(reversed(sweep.space.items()))
    space = make_space(sweep.values(), backwards, list)
    assert list(space.dimensions).index(ENCODING) < list(space.dimensions).index(RANK)


def test_a_point_is_the_experiment_that_overrides_by_hand_would_be(tmp_path: Path) -> None:
    space = space_of(tiny(tmp_path))
    point = {ENCODING: "svd", RANK: 3, "transfers.main.cycle": 2, "transfers.main.optimizer.adamw.lr": 1e-3}
    options = parse(Experiment, space.experiment(point)).transfers["main"].dump()
    assert options["encoding"]["svd"]["rank"] == 3
    assert options["cycle"] == 2 and options["optimizer"]["adamw"]["lr"] == 1e-3
    plain = {ENCODING: "whole", "transfers.main.cycle": 1, "transfers.main.optimizer.adamw.lr": 1e-3}
    assert parse(Experiment, space.experiment(plain)).transfers["main"].dump()["encoding"] == {"whole": {}}


def test_listed_options_may_be_maps_and_are_known_by_a_line(tmp_path: Path) -> None:
    listed = [{"lpka": {"form": "gated", "depth": 1}}, {"mlp": {}}]
    space = make_space(tiny(tmp_path).values(), {"transfers.main.adapter": Values(of=tuple(listed))}, list)
    point = space.draw(Drawn("mlp"))
    assert space.changes(point) == {"transfers.main.adapter": {"mlp": {}}}
    assert [label_of(value) for value in listed] == ["lpka form gated, depth 1", "mlp"]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_point_of_the_space_is_a_valid_experiment(data: st.DataObject) -> None:
    class Any_:
        def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
            return data.draw(st.integers(low, high), name)

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return data.draw(st.floats(low, high), name)

        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            return data.draw(st.sampled_from(choices), name)

    sweep = load_sweep("cifar100-search")
    space = make_space(sweep.values(), sweep.space, lambda: PORTS)
    point = space.draw(Any_())
    experiment = parse(Experiment, space.experiment(point))
    options = experiment.transfers["main"]
    assert options.cycle == point["transfers.main.cycle"]
    assert (RANK in point) == (point[ENCODING] == "svd")


# --- ports -------------------------------------------------------------------------------------------------------


def test_patterns_are_written_out_in_the_models_order_each_port_once(tmp_path: Path) -> None:
    ends = Values(of=("source.layer4.*", "source.*.1.*", "source.classifier"))
    space = make_space(tiny(tmp_path).values(), {"transfers.main.from": ends}, lambda: PORTS)
    assert space.ends("main") == (
        ["source.layer4.0.conv1", "source.layer4.1.conv2", "source.classifier"],
        ["target.irb16"],
    )


def test_pairs_that_cannot_meet_are_left_out_and_said_so(tmp_path: Path) -> None:
    change = {
        "space": {
            "transfers.main.from": listed("source.classifier", "source.conv1"),
            "transfers.main.to": listed("target.irb1", "target.irb16", "target.irb17"),
            ENCODING: listed("svd"),
            RANK: ints(9, 12),
        }
    }
    plan = planned(tmp_path, change)
    pairing = plan.pairings["main"]
    assert len(pairing.meet) == 4 and ("source.conv1", "target.irb16") in pairing.meet
    assert set(pairing.left_out) == {("source.classifier", "target.irb1"), ("source.conv1", "target.irb1")}
    assert "rank 9 is above 8, the most a 8 x 16 matrix has" in next(iter(pairing.left_out.values()))
    assert plan.space.ends("main")[1] == ["target.irb16", "target.irb17"], "a port that meets none is not drawn"
    assert not plan.meets({"transfers.main.from": "source.conv1", "transfers.main.to": "target.irb1"})


def test_a_pair_that_meets_in_one_of_the_listed_encodings_stays(tmp_path: Path) -> None:
    ends = {"transfers.main.to": listed("target.irb1"), ENCODING: listed("svd", "whole"), RANK: ints(9, 12)}
    assert len(planned(tmp_path, {"space": ends}).pairings["main"].meet) == 1


def test_a_port_is_not_paired_with_itself(tmp_path: Path) -> None:
    ends = {
        "transfers.main.from": listed("target.irb16", "target.features.16.conv.2"),
        "transfers.main.to": listed("target.irb16", "target.irb17"),
    }
    meet = planned(tmp_path, {"space": ends}).pairings["main"].meet
    assert meet == {("target.irb16", "target.irb17"), ("target.features.16.conv.2", "target.irb17")}


# --- files and overrides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sweeps())
def test_a_sweep_reads_back_from_its_own_file(name: str, tmp_path: Path) -> None:
    sweep = load_sweep(name)
    path = tmp_path / "again.yaml"
    path.write_text(as_yaml(sweep.dump()))
    assert load_sweep(str(path)) == sweep


def test_a_sweep_and_a_table_never_have_the_same_name() -> None:
    assert not {*sweeps()} & {*tables()}


def test_overrides_reach_the_sweep_and_its_experiment() -> None:
    sweep = load_sweep(
        "cifar100-search",
        [
            "budget.trials=7",
            "sampler=random",
            "scheduler.asha.grace=1",
            "training.epochs=3",
            "space.transfers.main.cycle=[1, 4]",
            "objectives={target.loss: lower}",
        ],
    )
    assert sweep.budget.trials == 7 and sweep.dump()["sampler"] == {"random": {}}
    assert sweep.dump()["scheduler"] == {"asha": {"grace": 1, "factor": 2}}
    assert sweep.change == {"training.epochs": 3}
    assert sweep.space["transfers.main.cycle"] == Values(of=(1, 4))
    assert sweep.objectives == {"target.loss": "lower"}
    assert isinstance(sweep.space["transfers.main.adapter.lpka.depth"], Ints)


def test_no_trial_reads_the_test_split(tmp_path: Path) -> None:
    assert parse(Experiment, tiny(tmp_path).values()).evaluation.test == "never"


@pytest.mark.parametrize("name", sweeps())
def test_layers_are_overrides_of_the_recipe(name: str) -> None:
    sweep = load_sweep(name)
    words = [f"{path}={in_line(value)}" for path, value in sweep.layers()]
    assert load_experiment(sweep.experiment, words) == parse(Experiment, sweep.values())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner),
    )
)
@settings(max_examples=200)
@example("1")
@example("true")
@example("null")
@example("1e-3")
@example("a: b")
@example(" a")
@example("")
@example("\x85\u2028")
def test_a_value_in_a_line_reads_back(value: Any) -> None:
    text = in_line(value)
    assert "\n" not in text
    assert read_override(f"a.b={text}") == {"a": {"b": value}}
    assert read_yaml(text, "a test") == value


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"space": {"transfers.main.cycle": ints(4, 2)}}, "low 4 is not below high 2"),
        ({"space": {"transfers.main.cycle": {"int": {"low": 0, "high": 2, "log": True}}}}, "needs numbers above 0"),
        ({"space": {"transfers.main.cycle": listed(1, 1)}}, "1 stands there twice"),
        ({"space": {"transfers.main.cycle": {"ints": {"low": 0}}}}, "unknown choice 'ints'; nearest is 'int'"),
        ({"objectives": {"target": "higher"}}, "write it as learner.metric, or adapter.parameters"),
        ({"objectives": {"target.top1": "best"}}, "objectives.target.top1: "),
        ({"sampler": "nsga2"}, "nsga2 weighs two objectives"),
        ({"sampler": "tpee"}, "unknown choice 'tpee'; nearest is 'tpe'"),
        ({"sampler": "exhaustive"}, "has no end of values for sampler 'exhaustive'; list some"),
        ({"change": {"learners.source.model": "mine:net"}}, "mine:net is code of yours that would run here; allow it"),
        ({"space": {"learners.source.model": listed("resnet18", "mine:net")}}, "space.learners.source.model: mine:net"),
        ({"scale": "digit"}, "no scale 'digit'; nearest is 'digits'"),
        ({"trials": 3}, "trials"),
        ({"change": {"training.epoch": 3}}, "training.epoch: unknown key; nearest is 'epochs'"),
        ({"change": {"evaluation.validation": 0.0}}, "a sweep chooses by its figures; hold out a share"),
        ({"change": {"transfers.main.enabled": False}}, "transfers: there is none to search"),
        ({"objectives": {"tarket.loss": "lower"}}, "no learner 'tarket' trains; nearest is 'target'"),
        ({"objectives": {"target.top3": "higher"}}, "objectives.target.top3: no metric 'top3'; nearest is 'top"),
        ({"space": {"transfers.main.to": listed("target.irb*x")}}, "no port is like 'target.irb*x'"),
        ({"space": {"transfers.main.to": listed("target.ibr16")}}, "no pair of ports can be joined"),
        ({"space": {"transfers.main.to": ints(1, 2)}}, "ports are listed by their names"),
        ({"space": {"transfers.main.adapter.mlp.hidden": ints(1, 2)}}, "takes 'lpka' at transfers.main.adapter"),
        ({"space": {"transfers.main.encoding": listed("whole")}}, "main.encoding has no 'svd'; add it there"),
        ({"space": {"transfers.main.cycel": ints(1, 2)}}, "cycel: unknown key; nearest is 'cycle'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_sweep_is_said_before_anything_runs(
    change: dict[str, Any], line: str, tmp_path: Path
) -> None:
    assert line in refusal(lambda: planned(tmp_path, change))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("bugdet.trials=3", "neither the sweep nor its experiment has 'bugdet'; nearest is 'budget'"),
        ("name=mine", "neither the sweep nor its experiment has 'name'"),
        ("budget.trials", "write it as path=value"),
        ("budget.trials=many", "budget.trials: "),
    ],
)
def test_a_wrong_override_is_said_in_a_line(override: str, line: str) -> None:
    assert line in refusal(lambda: load_sweep("digits-pairing", [override]))


def test_an_unknown_sweep_is_answered_with_the_nearest() -> None:
    assert "no sweep 'digits-paring'; nearest is 'digits-pairing'" in refusal(lambda: load_sweep("digits-paring"))


# --- identity and room -------------------------------------------------------------------------------------------


def test_a_sweep_is_known_by_what_decides_its_trials_and_not_by_how_many(tmp_path: Path) -> None:
    def hash_of(change: dict[str, Any]) -> str:
        return planned(tmp_path, change).hash

    same = {hash_of({}), hash_of({"budget": {"trials": 99}}), hash_of({"title": "Another title"})}
    assert len(same) == 1
    others = [
        {"sampler": "tpe"},
        {"seed": 1},
        {"change": {"training.epochs": 3}},
        {"scheduler": "asha"},
        {"objectives": {"target.top1": "higher"}},
    ]
    assert len({hash_of(change) for change in others} | same) == 1 + len(others)


@pytest.mark.parametrize(
    ("setting", "there", "asked", "trials", "gpu", "why"),
    [
        (Setting(), 2, None, 2, 0.0, "1 worker x 1 thread = 1 processors a trial; 2 // 1 = 2 at once"),
        (Setting(workers=2), 4, None, 2, 0.0, "2 workers x 1 thread = 2 processors a trial; 4 // 2 = 2 at once"),
        (Setting(workers=2, threads=2), 7, None, 1, 0.0, "2 threads = 4 processors a trial; 7 // 4 = 1 at once"),
        (Setting(), 4, 3, 3, 0.0, "4 // 1 = 4 at once, 3 asked for"),
        (Setting("cuda"), 2, 5, 5, 1 / 3, "5 trials on 2 GPUs: each has 1/3 of one"),
        (Setting("cuda", workers=2), 8, None, 4, 1.0, "2 workers = 2 GPUs a trial; 8 // 2 = 4 at once"),
    ],
)  # fmt: skip
def test_as_many_trials_run_at_once_as_have_room_for_all_their_workers(
    setting: Setting, there: int, asked: int | None, trials: int, gpu: float, why: str
) -> None:
    room = room_for(setting, there, asked)
    assert (room.trials, room.gpu) == (trials, gpu)
    assert room.why.endswith(why)
    held = room.trials * setting.workers * (setting.threads if setting.device == "cpu" else room.gpu)
    assert held <= there, "no trial waits for workers that another one holds"


@pytest.mark.parametrize(
    ("setting", "there", "asked", "line"),
    [
        (Setting(workers=3), 2, None, "a trial of 3 workers x 1 thread needs 3 processors, and there are 2"),
        (Setting(), 2, 3, "--concurrent 3: 2 processors have room for 2 trials of 1 worker x 1 thread each"),
        (Setting("cuda", workers=2), 2, 2, "--concurrent 2: 2 GPUs have room for 1 trials of 2 workers each"),
        (Setting("cuda"), 0, None, "needs 1 GPUs, and there are 0"),
    ],
)
def test_what_has_no_room_is_refused_for_ray_would_wait_for_ever(
    setting: Setting, there: int, asked: int | None, line: str
) -> None:
    assert line in refusal(lambda: room_for(setting, there, asked))


def test_a_sweep_of_an_unknown_scale_or_data_reads_nothing(tmp_path: Path) -> None:
    sweep = load_sweep("cifar100-search")
    assert "data cifar100: needs its folder" in refusal(
        lambda: plan_sweep(sweep, sweep.values(), Setting(), {}, tmp_path / "runs")
    )


def test_a_file_that_is_no_sweep_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "no.yaml").write_text("name: x\n")
    assert "title: is missing" in refusal(lambda: load_sweep(str(tmp_path / "no.yaml")))
    assert isinstance(parse(Sweep, tiny(tmp_path).dump()), Sweep)


def test_the_sweep_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    sweep = load_sweep(str(tmp_path / "mine.yaml"), ["budget.trials=9", "space.transfers.main.cycle=[1, 4]"])
    plan = plan_sweep(sweep, sweep.values(), Setting(), {}, tmp_path / "runs")
    assert len(plan.pairings["main"].meet) == 6 * 17
    assert plan.space.dimensions["transfers.main.cycle"] == Values(of=(1, 4))


def test_a_loss_can_be_searched_where_no_transfer_takes_place(tmp_path: Path) -> None:
    edge = {"from": "source", "to": "target", "loss": "kd"}
    path = "distill.main.loss.kd.temperature"
    change = {"transfers.main.enabled": False, "distill.main": edge}
    plan = planned(tmp_path, {"change": change, "space": {path: {"float": {"low": 2.0, "high": 9.0}}}})
    spec, _ = plan.trial({**plan.space.corner({}), path: 3.5})
    assert spec.experiment.distill["main"].dump()["loss"]["kd"]["temperature"] == 3.5

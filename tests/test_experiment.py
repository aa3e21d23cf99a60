"""The experiment's graph: resolved, checked, and named by what can influence each learner."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergenet import identity
from mergenet.config import identity as identity_of
from mergenet.config import parse
from mergenet.data.images import Images, Split
from mergenet.experiment import Experiment, load_experiment, recipes
from mergenet.identity import Contents, cell_keys, run_hash
from mergenet.training.plan import Plan, make_plan
from tests.conftest import MISSING
from tests.refused import refusal

Make = Callable[..., Experiment]


DATA = {"digits": "digest of the digits", "cifar100": "digest of cifar100"}


def keys(experiment: Experiment, seed: int = 0, data: Mapping[str, str] = DATA, steps: int = 10) -> dict[str, str]:
    return cell_keys(
        experiment, seed, {name: steps for name in experiment.learners}, Contents(data), ticks_per_epoch=10
    )


def to(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as `{a: {b: value}}`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


# --- from files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_resolves_under_its_own_name(recipe: str) -> None:
    experiment = load_experiment(recipe, MISSING.get(recipe, []))
    assert experiment.name == recipe
    assert bool(experiment.enabled_edges()) is (recipe != "cifar100-yardstick")


def test_both_recipes_are_there() -> None:
    assert {"cifar100-cross-structure", "digits-cross-structure"} <= set(recipes())


@pytest.mark.parametrize("name", ["digits-cross-structure", "own.yaml", "./own.yml"])
def test_a_recipe_is_named_and_a_file_is_pathed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("own.yaml", "own.yml"):
        Path(file).write_text(
            "{name: own, clock: only, learners: {only: {model: m, task: {classification: {data: digits}}}}}"
        )
    assert load_experiment(name).name == ("own" if "own" in name else name)


def test_an_unknown_recipe_names_the_nearest() -> None:
    assert "nearest is 'digits-cross-structure'" in refusal(lambda: load_experiment("digit-cross-structure"))


def test_the_recipe_of_the_paper_has_the_authors_schedule() -> None:
    training = load_experiment("cifar100-cross-structure").learners["target"].training
    assert (training.epochs, training.batch_size) == (200, 128)
    assert training.optimizer.dump() == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
    rates = [0.1 * training.schedule.multiplier(epoch / 200) for epoch in (59, 60, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.02, 0.004, 0.0008, 0.0008])


# --- training of each learner ------------------------------------------------------------------------------------


def test_a_learners_own_training_is_laid_over_the_experiments(small: Make) -> None:
    experiment = small(to("learners.target.training", {"every": 1, "optimizer": {"sgd": {"momentum": 0.0}}}))
    source, target = experiment.learners["source"].training, experiment.learners["target"].training
    assert (target.batch_size, target.schedule) == (source.batch_size, source.schedule)
    assert source.optimizer.dump() == {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
    assert target.optimizer.dump() == {"lr": 0.05, "momentum": 0.0, "weight_decay": 5e-4, "nesterov": False}


def test_a_learners_other_optimizer_replaces_the_experiments(small: Make) -> None:
    target = small(to("learners.target.training.optimizer", "adamw")).learners["target"].training
    assert target.optimizer.dump() == {"lr": 1e-3, "weight_decay": 5e-4}


def test_resolved_training_is_recorded_with_the_learners_and_nowhere_else(small: Make) -> None:
    dumped = small(to("training.epochs", 7)).dump()
    assert "training" not in dumped
    assert [learner["training"]["epochs"] for learner in dumped["learners"].values()] == [7, 7]


# --- what does not connect ---------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    (to("transfers.main.from", "source"), "transfers.main.from: write it as learner.port, got 'source'"),
    (to("transfers.main.to", "target."), "transfers.main.to: write it as learner.port, got 'target.'"),
    (to("transfers.main.from", "sorce.classifier"), "transfers.main.from: no learner 'sorce'; nearest is 'source'"),
    (to("transfers.main.to", "targte.irb16"), "transfers.main.to: no learner 'targte'; nearest is 'target'"),
    (to("learners.source.training.epochs", 3), "learners.source.training.epochs: those of the clock learner 'target'"),
    (to("transfers.main", {"start": 0.5, "stop": 0.5}), "transfers.main: start 0.5 is not before stop 0.5"),
    (to("transfers.two", {"from": "source.fc", "to": "nobody.irb1", "enabled": False}), "transfers.two.to: no learner"),
    (to("clock", "taget"), "clock: 'taget' is no learner; nearest is 'target'"),
    (to("learners.target.training.every", 2), "learners.target.training.every: the clock learner steps on every tick"),
    (to("evaluation.validation", 1.0), "evaluation.validation: "),
    (to("name", "../up"), "name: "),
    (to("learners", {"a.b": {"model": "m", "task": {"classification": {"data": "digits"}}}}), "learners.a.b"),
    (to("learners.target.training.epocs", 1), "learners.target.training.epocs: unknown key; nearest is 'epochs'"),
    (to("learners.target", 3), "learners.target: "),
    (to("learners", 3), "learners: "),
    (to("training", 3), "training: "),
]


@pytest.mark.parametrize(("change", "start"), REFUSED)
def test_what_does_not_connect_is_refused_by_its_path(small: Make, change: dict[str, Any], start: str) -> None:
    assert refusal(lambda: small(change)).startswith(start)


def test_without_a_target_the_clock_must_be_named() -> None:
    one: dict[str, Any] = {
        "name": "one",
        "learners": {"only": {"model": "resnet18-narrow", "task": {"classification": {"data": "digits"}}}},
    }
    assert refusal(lambda: parse(Experiment, one)) == "clock: 'target' is no learner; there is only"
    assert parse(Experiment, {**one, "clock": "only"}).clock == "only"


def test_another_learner_than_the_clock_may_step_more_rarely(small: Make, digits: Images) -> None:
    plan = plan_of(small(to("learners.source.training.every", 2)), digits)
    assert (plan.ticks, plan.learners["target"].steps, plan.learners["source"].steps) == (5, 5, 3)


def test_a_disabled_transfer_does_not_stand_in_the_way(small: Make) -> None:
    experiment = small(to("transfers.two", {"from": "source.classifier", "to": "target.irb16", "enabled": False}))
    assert list(experiment.enabled_transfers()) == ["main"]


# --- the plan ----------------------------------------------------------------------------------------------------


def plan_of(experiment: Experiment, digits: Images, seed: int = 0, workers: int = 1) -> Plan:
    return make_plan(experiment, seed, {"digits": digits}, workers)


def test_the_plan_knows_lengths_and_shapes(small: Make, digits: Images) -> None:
    """1,438 training images less a tenth are 1,294: five steps of 256."""
    plan = plan_of(small(to("training.epochs", 3)), digits)
    assert plan.ticks == 15 and plan.learners["source"].steps_per_epoch == 5
    transfer = plan.transfers["main"]
    assert (transfer.source, transfer.target) == ((10, 128), (56, 336))
    assert (transfer.encoded_source, transfer.encoded_target) == ((4, 128), (4, 336))
    assert plan.contents == Contents({"digits": digits.digest()}, {"digits": [10, digits.mean, digits.deviation]})


PLAN_REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        to("transfers.two", {"from": "source.classifier", "to": "target.features.16.conv.2"}),
        "transfers.two.to: 'main' writes to target.features.16.conv.2 already",
    ),
    (
        {
            "learners": {"target": {"factored": {"irb16": {"rank": 4}}}, "source": {"factored": {"fc": {"rank": 4}}}},
            "transfers": {
                "main": {"encoding": "factored"},
                "two": {"from": "source.conv1", "to": "target.features.16.conv.2.parametrizations.weight.original1"},
            },
        },
        "transfers.two.to: 'main' writes to target.features.16.conv.2.parametrizations.weight.original1 already",
    ),
    (to("transfers.main.to", "source.fc"), "transfers.main.to: source.fc is what it reads; name another port"),
    (to("evaluation", {"weights": "best", "validation": 0.0}), "evaluation.weights: 'best' is chosen on a validation"),
    (to("evaluation", {"weights": "best", "validation": 1e-4}), "evaluation.weights: 'best' is chosen on a validation"),
    (to("transfers.main.to", "target.irb18"), "transfers.main.to: mobilenet_v2-narrow: no port 'irb18'"),
    (to("transfers.main", {"to": "target.irb18", "enabled": False}), "transfers.main.to: mobilenet_v2-narrow: no port"),
    (to("transfers.main.from", "source.fc.bias"), "transfers.main.from: resnet18-narrow: port 'fc.bias' is a vector"),
    (to("transfers.main.encoding.svd.rank", 11), "transfers.main.encoding: rank 11 is above 10"),
    (to("learners.target.model", "mobilenet"), "learners.target.model: no model 'mobilenet'; nearest is"),
    (to("training.batch_size", 5000), "learners.source.training.batch_size: 5000 is above the 1294 training samples"),
    (
        to("learners.target.training.batch_size", 255),
        "learners.target.training.batch_size: 255 does not divide by 2 workers, 254 does",
    ),
]


@pytest.mark.parametrize(("change", "start"), PLAN_REFUSED)
def test_a_run_that_cannot_be_is_refused_before_it_starts(
    small: Make, digits: Images, change: dict[str, Any], start: str
) -> None:
    assert refusal(lambda: plan_of(small(change), digits, workers=2)).startswith(start)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("vgg11", (3, 8, 8)),  # halves its images five times
        ("vit_b_16", (3, 32, 32)),
        ("resnet18-narrow", (1, 8, 8)),
    ],
)
def test_images_that_a_model_does_not_take_are_refused_with_their_shape(
    small: Make, digits: Images, model: str, shape: tuple[int, ...]
) -> None:
    images = Split(torch.zeros(1500, *shape, dtype=torch.uint8), torch.zeros(1500, dtype=torch.int64))
    experiment = small({"learners": {"source": {"model": model}}, "transfers": {"main": {"enabled": False}}})
    line = refusal(lambda: plan_of(experiment, replace(digits, train=images)))
    assert line.startswith(f"learners.source.model: {model} does not take 256 images of {shape} at once: ")


def test_images_that_a_model_takes_are_not_refused(small: Make, digits: Images) -> None:
    images = Split(torch.zeros(1500, 3, 32, 32, dtype=torch.uint8), torch.zeros(1500, dtype=torch.int64))
    experiment = small({"learners": {"source": {"model": "vgg11"}}})
    assert plan_of(experiment, replace(digits, train=images)).ticks == 5


# --- cells -------------------------------------------------------------------------------------------------------

BACK = to("transfers.back", {"from": "target.classifier", "to": "source.layer4.0.conv1"})
SELF = to("transfers.inner", {"from": "target.classifier", "to": "target.irb8"})
OFF = {"from": "source.classifier", "to": "target.irb8", "enabled": False}

# change -> the learners whose key it changes
CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    (to("name", "other"), set()),
    (to("checkpoint.every", 3), set()),
    (to("evaluation.every", 2), set()),
    (to("evaluation.test", "always"), set()),
    (to("transfers.off", OFF), set()),
    (to("evaluation.validation", 0.2), {"source", "target"}),
    (to("evaluation.weights", "best"), {"source", "target"}),
    (to("training.batch_size", 128), {"source", "target"}),
    (to("learners.source.training.optimizer.sgd.lr", 0.1), {"source", "target"}),
    (to("learners.source.copy", 1), {"source", "target"}),
    (to("learners.source.task.classification.augmentation.flip", True), {"source", "target"}),
    (to("learners.source.task.classification.size", 4), {"source", "target"}),
    (to("learners.source.task.classification.samples", 500), {"source", "target"}),
    (to("learners.target.task.classification.samples", 500), {"target"}),
    (to("learners.target.training.optimizer.sgd.lr", 0.1), {"target"}),
    (to("learners.target.model", "mobilenet_v2-cifar"), {"target"}),
    (to("transfers.main.cycle", 3), {"target"}),
    (to("transfers.main.encoding.svd.iterations", 2), {"target"}),
    (to("transfers.main.adapter.lpka.depth", 2), {"target"}),
    (to("transfers.main.from", "source.layer4.0.conv1"), {"target"}),
    (to("transfers.main.to", "target.irb17"), {"target"}),
    (to("transfers.main.from", "source.fc.weight"), set()),
    (to("transfers.main.to", "target.features.16.conv.2"), set()),
    (to("transfers.main.enabled", False), {"target"}),
    (SELF, {"target"}),
    (BACK, {"source", "target"}),
]


@pytest.mark.parametrize(("change", "changed"), CHANGES)
def test_a_change_shows_in_the_keys_of_those_it_can_reach(
    small: Make, change: dict[str, Any], changed: set[str]
) -> None:
    before, after = keys(small()), keys(small(change))
    assert {name for name in after if after[name] != before[name]} == changed


def test_seed_steps_and_data_count(small: Make) -> None:
    experiment = small()
    found = [
        keys(experiment),
        keys(experiment, seed=1),
        keys(experiment, steps=11),
        keys(experiment, data={"digits": "other pixels"}),
    ]
    for name in experiment.learners:
        assert len({each[name] for each in found}) == 4


def test_names_of_learners_and_of_transfers_and_their_order_do_not_count(small: Make) -> None:
    plain = small().dump()
    learners = {"pupil": plain["learners"]["target"], "master": plain["learners"]["source"]}
    transfer = {**plain["transfers"]["main"], "from": "master.classifier", "to": "pupil.irb16"}
    renamed = parse(
        Experiment, {"name": "renamed", "learners": learners, "transfers": {"other": transfer}, "clock": "pupil"}
    )
    assert keys(renamed)["pupil"] == keys(small())["target"]
    assert keys(renamed)["master"] == keys(small())["source"]


def test_names_of_data_do_not_count_but_their_digests_do(small: Make) -> None:
    moved = small(to("learners.source.task.classification.data", "cifar100"))
    assert keys(moved, data={"digits": "d", "cifar100": "d"}) == keys(small(), data={"digits": "d"})


def test_what_a_data_set_says_besides_its_pixels_counts(small: Make) -> None:
    """The number of classes decides a model's size, the normalisation what it sees."""
    contents = [
        Contents(DATA, {"digits": form}) for form in ([10, [0.5], [0.25]], [11, [0.5], [0.25]], [10, [0.4], [0.25]])
    ]
    steps = {"source": 10, "target": 10}
    assert len({cell_keys(small(), 0, steps, each, 10)["target"] for each in contents}) == 3
    assert len({run_hash(small(), each) for each in contents}) == 3


def test_a_target_alone_has_the_key_it_has_in_company(small: Make) -> None:
    plain = small().dump()
    second = {**plain["transfers"]["main"], "to": "second.irb16", "cycle": 1}
    company = small({"learners": {"second": plain["learners"]["target"]}, "transfers": {"second": second}})
    assert keys(company)["target"] == keys(small())["target"]
    assert keys(company)["second"] != keys(small())["target"]


def test_twins_have_one_key(small: Make) -> None:
    plain = small().dump()
    second = {**plain["transfers"]["main"], "to": "second.irb16"}
    twins = keys(small({"learners": {"second": plain["learners"]["target"]}, "transfers": {"second": second}}))
    assert twins["target"] == twins["second"]


def test_circles_within_circles_are_described_and_reach_everyone(small: Make) -> None:
    """Both ways and onto oneself at once: the description ends, and a change of either learner shows in both."""
    circles = {"transfers": {**BACK["transfers"], **SELF["transfers"]}}
    assert all(len(key) == 64 for key in keys(small(circles)).values())
    for learner in ("source", "target"):
        after = keys(small({**circles, **to(f"learners.{learner}.copy", 1)}))
        assert all(after[name] != key for name, key in keys(small(circles)).items())


def test_in_a_two_way_graph_each_learner_reaches_the_other(small: Make) -> None:
    before = keys(small(BACK))
    for learner in ("source", "target"):
        after = keys(small({**BACK, **to(f"learners.{learner}.training.optimizer.sgd.lr", 0.2)}))
        assert before["source"] != after["source"] and before["target"] != after["target"]


def ring(size: int, last_rate: float, last_reads: int) -> Experiment:
    """`size` ResNets, each taught by the next and the last by the one numbered `last_reads`; the last learns faster."""

    def learner(number: int) -> dict[str, Any]:
        rate = last_rate if number == size - 1 else 0.1
        task = {"classification": {"data": "digits"}}
        return {"model": "resnet18-narrow", "task": task, "training": {"optimizer": {"sgd": {"lr": rate}}}}

    def transfer(number: int) -> dict[str, Any]:
        source = last_reads if number == size - 1 else number + 1
        return {"from": f"l{source}.classifier", "to": f"l{number}.layer4.0.conv1"}

    numbers = range(size)
    learners = {f"l{number}": learner(number) for number in numbers}
    transfers = {f"t{number}": transfer(number) for number in numbers}
    return parse(Experiment, {"name": "ring", "clock": "l0", "learners": learners, "transfers": transfers})


def test_two_circles_that_differ_only_far_upstream_differ_in_the_key_of_whom_they_teach() -> None:
    """0 <- 1 <- 2 <- 0 and 0 <- 1 <- 2 <- 1, where 0 and 1 are set up alike: what 2 hears of is not the same."""
    assert keys(ring(3, 0.2, last_reads=0))["l0"] != keys(ring(3, 0.2, last_reads=1))["l0"]


def test_keys_of_many_learners_who_all_teach_each_other_are_found_at_once() -> None:
    blocks = [f"layer{layer}.{block}.conv1" for layer in (1, 2, 3) for block in (0, 1)]
    task = {"classification": {"data": "digits"}}
    learners = {f"l{number}": {"model": "resnet18-narrow", "task": task} for number in range(6)}
    transfers = {
        f"{source}{target}": {"from": f"{source}.classifier", "to": f"{target}.{blocks[place]}"}
        for place, source in enumerate(learners)
        for target in learners
        if source != target
    }
    everyone = parse(Experiment, {"name": "all", "clock": "l0", "learners": learners, "transfers": transfers})
    begin = time.monotonic()
    keys(everyone)
    assert time.monotonic() - begin < 2.0


def test_every_counts_only_where_the_best_weights_are_kept(small: Make) -> None:
    best = to("evaluation.weights", "best")["evaluation"]
    rare, often = ({"evaluation": {**best, "every": every}} for every in (2, 1))
    assert keys(small(rare)) != keys(small(often))
    assert keys(small(to("evaluation.every", 2))) == keys(small())


def test_how_often_the_clock_is_validated_counts_where_the_best_weights_are_kept(small: Make) -> None:
    """Two clocks of other batch sizes look at the same source at other ticks."""
    for weights, equal in (("best", False), ("last", True)):
        experiment = small(to("evaluation.weights", weights))
        one, other = (
            cell_keys(experiment, 0, {"source": 10, "target": 10}, Contents(DATA), ticks) for ticks in (5, 10)
        )
        assert (one["source"] == other["source"]) is equal


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("transfers.mian.cycle=3", "override 'transfers.mian.cycle=3': no transfer 'mian'; nearest is 'main'"),
        ("learners.soruce.copy=1", "override 'learners.soruce.copy=1': no learner 'soruce'; nearest is 'source'"),
    ],
)
def test_a_value_within_a_misspelt_learner_or_transfer_is_refused(override: str, line: str) -> None:
    assert refusal(lambda: load_experiment("digits-cross-structure", [override])) == line


def test_an_override_may_add_a_whole_transfer() -> None:
    added = load_experiment("digits-cross-structure", ["transfers.new={from: plain.classifier, to: target.irb4}"])
    assert added.transfers["new"].source == "plain.classifier"


def test_the_hash_of_a_run_counts_everything_but_where_its_data_lie(small: Make) -> None:
    hashes = [run_hash(small(change), Contents(DATA)) for change, _ in CHANGES] + [run_hash(small(), Contents(DATA))]
    assert len(set(hashes)) == len(hashes)
    assert run_hash(small(), Contents(DATA)) != run_hash(small(), Contents({"digits": "other pixels"}))
    assert run_hash(small(), Contents(DATA)) == run_hash(small(), Contents(dict(reversed(DATA.items()))))


def names_of(experiment: Experiment, contents: Contents) -> dict[str, str]:
    """The run's hash and the key of each learner."""
    steps = dict.fromkeys(experiment.learners, 10)
    return {"run": run_hash(experiment, contents), **cell_keys(experiment, 0, steps, contents, ticks_per_epoch=10)}


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("data", {**DATA, "digits": "other pixels"}),
        ("forms", {"digits": [[0.5], [0.125]]}),
        ("weights", {"source": "other weights"}),
        ("code", {"source": "other code"}),
    ],
)
def test_all_that_an_experiment_only_names_counts(small: Make, part: str, other: dict[str, Any]) -> None:
    """And reaches the target through the transfer from the source."""
    contents = Contents(DATA, {"digits": [[0.5], [0.25]]}, {"source": "weights"}, {"source": "code"})
    before, after = names_of(small(), contents), names_of(small(), replace(contents, **{part: other}))
    assert {name for name in before if before[name] != after[name]} == {"run", "source", "target"}


NEUTRAL = [
    to("evaluation.test", "end"),
    to("learners.target.task.classification", {"size": None, "samples": None}),
    {},
]


@pytest.mark.parametrize("change", NEUTRAL)
def test_what_was_so_before_there_was_an_option_keeps_its_name(small: Make, change: dict[str, Any]) -> None:
    assert names_of(small(change), Contents(DATA)) == names_of(small(), Contents(DATA))
    assert identity_of(small(change).evaluation) == {"validation": 0.1, "every": 1, "weights": "last"}
    task = small(change).learners["target"].trained_task
    assert identity_of(task) == {"data": "digits", "augmentation": {"crop": 0, "flip": False, "rotation": 0.0}}


def test_other_numerics_are_other_runs(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names_of(small(), Contents(DATA))
    monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    after = names_of(small(), Contents(DATA))
    assert all(after[name] != before[name] for name in before)

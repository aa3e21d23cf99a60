"""Controls: each stands where it says, and what a control must not know cannot reach the target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mergenet import randomness
from mergenet.config import InputError
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.method.ports import Port
from mergenet.method.sources import Fixed, Live, Shuffled
from mergenet.models import MODELS
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec, data_of
from tests.compare import assert_runs_equal
from tests.plain import Plain, PlainAdapter
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
STEPS, CYCLE = 10, 2
CLASSIFIER, HIDDEN = "5", "2"  # a linear layer (10, 512) and a 1 x 1 convolution (8, 8)


# --- sources -----------------------------------------------------------------------------------------------------


def port() -> Port:
    return Port("p", "p", {"p": nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))})


def test_a_live_source_is_read_as_it_is_and_a_fixed_one_as_it_was() -> None:
    weight = port()
    live, fixed, before = Live(weight), Fixed(weight), weight.read()
    weight.write(before + 1.0)
    assert torch.equal(live.read(4), before + 1.0)
    assert torch.equal(fixed.read(4), before)
    assert (fixed.path, fixed.shape) == ("p", (4, 3))


def test_a_shuffled_source_has_the_live_values_in_an_order_of_its_step() -> None:
    weight = port()
    source = Shuffled(weight, seed=0)
    first = source.read(4)
    assert torch.equal(first.flatten().sort().values, weight.read().flatten().sort().values)
    assert not torch.equal(first, weight.read())
    assert torch.equal(first, Shuffled(weight, seed=0).read(4))  # so that a resumed run reads the same
    assert not torch.equal(first, source.read(8))
    assert not torch.equal(first, Shuffled(weight, seed=1).read(4))
    weight.write(weight.read() + 1.0)
    assert torch.equal(source.read(4), first + 1.0)


# --- in a run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def train(small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Graph]:
    """Trains smooth networks with a control in the source's place."""
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)

    def train(control: str, source: dict[str, Any] | None = None, **transfer: Any) -> Graph:
        learner = {"model": "smooth", "task": {"classification": {"data": "digits"}}}
        main = {"from": "source.classifier", "to": "target.2", "encoding": "whole", "cycle": CYCLE, "control": control}
        adapter = {"lpka": {"width": 16, "heads": 2, "depth": 1}}
        change = {
            "learners": {"source": {**learner, **(source or {})}, "target": {**learner, "copy": 1}},
            "transfers": {"main": {**main, "adapter": adapter, "optimizer": {"adamw": {"lr": 1e-2}}, **transfer}},
            "training": {"epochs": 2},
        }
        return run(graph_of(small(change), digits), STEPS)

    return train


def test_an_adapter_may_learn_from_the_targets_own_loss(train: Callable[..., Graph], digits: Images) -> None:
    expected = by_hand(digits, lambda source, target, step: source.matrix(CLASSIFIER), update="loss")
    assert expected.has_the_weights_of(train("none", update="loss").learners["target"].model)
    assert not expected.has_the_weights_of(train("none").learners["target"].model)


def test_the_loss_of_a_whole_cycle_is_refused(small: MakeExperiment) -> None:
    with pytest.raises(InputError, match=r"^transfers\.main: update 'loss' is the gradient of the one step after"):
        small({"transfers": {"main": {"update": "loss", "span": "cycle"}}})


def by_hand(
    digits: Images, read: Callable[[Plain, Plain, int], Tensor], path: str = CLASSIFIER, update: str = "delta"
) -> Plain:
    """The target as a plain loop trains it beside a source, with whatever `read` gives in the source's place."""
    source, target = Plain(digits, 0), Plain(digits, 1)
    first = read(source, target, 0)
    adapter = PlainAdapter(path, HIDDEN, (8, 8), tuple(first.shape), (STEPS - 1) // CYCLE)
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = adapter.module(target.matrix(HIDDEN), read(source, target, step))
            target.write(HIDDEN, generated)
        source.step(step)
        target.step(step)
        if due:
            gradient = target.weight(HIDDEN).grad
            assert gradient is not None
            delta = generated.detach() - target.matrix(HIDDEN)
            adapter.learn_from(generated, delta if update == "delta" else gradient.flatten(1))
    return target


def test_own_reads_the_very_matrix_it_writes(train: Callable[..., Graph], digits: Images) -> None:
    expected = by_hand(digits, lambda source, target, step: target.matrix(HIDDEN), path=HIDDEN)
    assert expected.has_the_weights_of(train("own").learners["target"].model)


def test_initial_reads_the_source_as_it_began(train: Callable[..., Graph], digits: Images) -> None:
    began = Plain(digits, 0).matrix(CLASSIFIER)
    expected = by_hand(digits, lambda source, target, step: began)
    assert expected.has_the_weights_of(train("initial").learners["target"].model)


def test_random_reads_another_initialisation_of_the_sources_model(train: Callable[..., Graph], digits: Images) -> None:
    torch.manual_seed(randomness.key("random source", 0, "smooth", 0))
    other = SMOOTH.build(10).get_parameter(f"{CLASSIFIER}.weight").detach()
    assert not torch.equal(other, Plain(digits, 0).matrix(CLASSIFIER))
    expected = by_hand(digits, lambda source, target, step: other)
    assert expected.has_the_weights_of(train("random").learners["target"].model)


def test_shuffled_reads_the_live_source_out_of_order(train: Callable[..., Graph], digits: Images) -> None:
    def read(source: Plain, target: Plain, step: int) -> Tensor:
        matrix = source.matrix(CLASSIFIER)
        order = torch.randperm(matrix.numel(), generator=randomness.generator("shuffled source", 0, CLASSIFIER, step))
        return matrix.flatten()[order].reshape(matrix.shape)

    expected = by_hand(digits, read)
    assert expected.has_the_weights_of(train("shuffled").learners["target"].model)


@pytest.mark.parametrize("control", ["random", "initial", "own"])
def test_nothing_that_the_source_learns_reaches_the_target(control: str, train: Callable[..., Graph]) -> None:
    quick = {"training": {"optimizer": {"sgd": {"lr": 0.5}}}}
    models = [train(control, source).learners["target"].model.state_dict() for source in ({}, quick)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize("control", ["random", "initial", "own"])
def test_a_source_that_diverges_does_not_stop_what_never_reads_it(control: str, train: Callable[..., Graph]) -> None:
    wild = {"training": {"optimizer": {"sgd": {"lr": 1e30}}}}
    for name, stops in ((control, False), ("none", True)):
        graph = train(name, wild)
        assert graph.learners["source"].diverged_at is not None
        assert (graph.edges["main"].stopped_at() is not None) == stops


def test_the_plan_shows_what_an_own_source_is(small: MakeExperiment) -> None:
    experiment = small({"transfers": {"main": {"control": "own"}}})
    plan = make_plan(experiment, 0, data_of(experiment, {}), 1).transfers["main"]
    assert plan.source == plan.target and plan.encoded_source == plan.encoded_target


@pytest.mark.parametrize("control", ["random", "shuffled", "initial", "own"])
def test_a_control_changes_the_targets_cell_and_no_other(control: str, small: MakeExperiment) -> None:
    plain, changed = (small({"transfers": {"main": {"control": name}}}) for name in ("none", control))
    cells, others = (make_plan(one, 0, data_of(one, {}), 1).cells for one in (plain, changed))
    assert cells["target"] != others["target"] and cells["source"] == others["source"]
    assert make_plan(small(), 0, data_of(plain, {}), 1).cells == cells  # neutral: as before the field existed


@pytest.mark.parametrize("control", ["random", "shuffled", "initial", "own"])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(
    control: str, small: MakeExperiment, tmp_path: Path
) -> None:
    class Stopping(Silent):
        def tick(self, done: int) -> None:
            if done == 4:
                raise RuntimeError("stopped")

    experiment = small({"transfers": {"main": {"control": control}}, "checkpoint": {"every": 1}})
    execute(RunSpec(experiment, 0, {}, tmp_path / "whole"), Silent())
    with pytest.raises(RuntimeError, match="stopped"):
        execute(RunSpec(experiment, 0, {}, tmp_path / "cut"), Stopping())
    execute(RunSpec(experiment, 0, {}, tmp_path / "cut"), Silent())
    assert_runs_equal(tmp_path / "whole", tmp_path / "cut")


def test_a_frozen_source_has_a_random_control_of_its_own_classes(
    small: MakeExperiment, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    save_file(SMOOTH.build(7).state_dict(), tmp_path / "seven.safetensors")
    frozen = {"model": "smooth", "weights": str(tmp_path / "seven.safetensors"), "frozen": True, "task": None}
    learner = {"model": "smooth", "task": {"classification": {"data": "digits"}}}
    main = {"from": "source.classifier", "to": "target.2", "control": "random"}
    experiment = small({"learners": {"source": frozen, "target": learner}, "transfers": {"main": main}})
    graph = run(graph_of(experiment, digits), 3)
    assert graph.edges["main"].transfer.source.shape[0] == 7
    in_file = load_file(tmp_path / "seven.safetensors")["5.weight"]
    assert not torch.equal(graph.edges["main"].transfer.source.read(0), in_file)
    with pytest.raises(
        InputError, match=r"transfers\.main\.control: a frozen source stays as it began; leave 'initial'"
    ):
        small(
            {"learners": {"source": frozen, "target": learner}, "transfers": {"main": {**main, "control": "initial"}}}
        )

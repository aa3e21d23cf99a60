"""Layers trained as two factors: equal to a layer written out, whole again when a run is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.method.factorization import factor, merge
from mergenet.models import MODELS, find_model
from mergenet.models.weights import read_weights
from mergenet.training.export import export_model
from mergenet.training.plan import make_plan
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec, data_of
from tests.compare import assert_runs_equal, final_state
from tests.plain import Plain
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
RANK = 3


class LowRankLinear(nn.Module):
    """y = x (B A)' + b with B and A trained: as anyone would write it."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        left, values, right = torch.linalg.svd(dense.weight.detach(), full_matrices=False)
        self.bias = nn.Parameter(dense.bias.detach().clone())
        self.B = nn.Parameter(left[:, :RANK] * values[:RANK].sqrt())
        self.A = nn.Parameter(values[:RANK].sqrt()[:, None] * right[:RANK])

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(images, self.B @ self.A, self.bias)


def learner(**options: Any) -> dict[str, Any]:
    return {"model": "smooth", "task": {"classification": {"data": "digits"}}, **options}


FACTORED = {"factored": {"classifier": {"rank": RANK}}}


@pytest.fixture
def trio(small: MakeExperiment, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Experiment]:
    """The factored classifiers of two smooth networks, A to A."""
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)

    def make(**transfer: Any) -> Experiment:
        main = {"to": "target.classifier", "encoding": "factored", "optimizer": {"adamw": {"lr": 1e-2}}, **transfer}
        learners = {"source": learner(**FACTORED), "target": learner(copy=1, **FACTORED)}
        return small(
            {"learners": learners, "transfers": {"main": main}, "training": {"epochs": 2}, "checkpoint": {"every": 3}}
        )

    return make


def test_the_plain_arm_of_a_factored_layer_is_a_low_rank_layer_written_out(
    trio: Callable[..., Experiment], digits: Images
) -> None:
    graph = run(graph_of(trio(enabled=False), digits), 10)
    plain = Plain(digits, 1)
    plain.model[5] = LowRankLinear(plain.model[5])  # type: ignore[index]
    plain.optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(10):
        plain.step(step)
    trained, expected = graph.learners["target"].model, plain.model[5]  # type: ignore[index]
    found = trained[5].parametrizations.weight  # type: ignore[index]
    torch.testing.assert_close(found.original0, expected.B, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.original1, expected.A, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(trained[0].weight, plain.model[0].weight, rtol=1e-5, atol=1e-7)  # type: ignore[index]


@pytest.mark.parametrize("port", ["5", "5.weight"])
def test_a_factored_layer_is_the_same_by_any_of_its_names(port: str, trio: Callable[..., Experiment]) -> None:
    plans = []
    for name in ("classifier", port):
        named = trio().model_copy(deep=True)
        for options in named.learners.values():
            options.factored[name] = options.factored.pop("classifier")
        plans.append(make_plan(named, 0, data_of(named, {}), 1))
    assert plans[0].cells == plans[1].cells


def test_there_is_no_dense_weight_beside_its_factors(trio: Callable[..., Experiment], digits: Images) -> None:
    model = graph_of(trio(), digits).learners["target"].model
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters() if name.startswith("5.")}
    assert shapes == {
        "5.bias": (10,),
        "5.parametrizations.weight.original0": (10, RANK),
        "5.parametrizations.weight.original1": (RANK, 512),
    }


def test_a_transfer_writes_the_factor_that_it_attends_and_no_other(
    trio: Callable[..., Experiment], digits: Images
) -> None:
    graph = run(graph_of(trio(), digits), 4)
    factors = graph.learners["target"].model[5].parametrizations.weight  # type: ignore[index]
    before = factors.original0.detach().clone(), factors.original1.detach().clone()
    edge = graph.edges["main"]
    edge.read(4)
    edge.write(4)
    assert torch.equal(factors.original0, before[0])
    assert not torch.equal(factors.original1, before[1])


@pytest.mark.parametrize("attends", ["A", "B", "both"])
def test_a_run_of_factors_that_is_stopped_and_resumed_equals_one_that_is_not(
    attends: str, trio: Callable[..., Experiment], tmp_path: Path
) -> None:
    class Stopping(Silent):
        def tick(self, done: int) -> None:
            if done == 5:
                raise RuntimeError("stopped")

    experiment = trio(encoding={"factored": {"attends": attends}}, span="cycle")
    execute(RunSpec(experiment, 0, {}, tmp_path / "whole"), Silent())
    with pytest.raises(RuntimeError, match="stopped"):
        execute(RunSpec(experiment, 0, {}, tmp_path / "cut"), Stopping())
    execute(RunSpec(experiment, 0, {}, tmp_path / "cut"), Silent())
    assert_runs_equal(tmp_path / "whole", tmp_path / "cut")


def test_an_export_has_one_weight_where_two_factors_were_trained(small: MakeExperiment, tmp_path: Path) -> None:
    factored = {"factored": {"irb15": {"rank": 4}, "features.1.conv.0.0": {"rank": 2}}}
    experiment = small({"learners": {"target": factored}})
    execute(RunSpec(experiment, 0, {}, tmp_path / "run"), Silent())
    export_model(tmp_path / "run", tmp_path / "out", program=False)
    weights = read_weights("mobilenet_v2-narrow", str(tmp_path / "out" / "model.safetensors"))
    model = find_model("mobilenet_v2-narrow").build(10)
    assert weights.load_into(model) == []
    state = final_state(tmp_path / "run")["learners"]["target"]["model"]
    left, right = (state[f"features.15.conv.2.parametrizations.weight.original{index}"] for index in (0, 1))
    written = model.get_parameter("features.15.conv.2.weight")
    assert torch.equal(written.flatten(1), left @ right)
    assert torch.linalg.matrix_rank(written.detach().flatten(1)) == 4


def test_a_frozen_source_has_no_factors(small: MakeExperiment) -> None:
    frozen = {"weights": "a.safetensors", "frozen": True, "task": None, "factored": {"classifier": {"rank": 2}}}
    with pytest.raises(InputError, match=r"^learners\.source\.factored: a frozen learner does not train"):
        small({"learners": {"source": frozen}})


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(3, 5, 3), nn.Conv2d(6, 5, 1)])
def test_at_full_rank_the_factors_are_the_weight_and_merge_to_it(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    factor(model, {"0": 5}, {})
    torch.testing.assert_close(model[0].weight, plain["0.weight"], rtol=1e-5, atol=1e-6)
    merged = merge(model.state_dict(), {name: value.shape for name, value in plain.items()})
    assert list(merged) == list(plain)
    torch.testing.assert_close(merged["0.weight"], plain["0.weight"], rtol=1e-5, atol=1e-6)
    factors = model[0].parametrizations.weight  # type: ignore[union-attr]
    torch.testing.assert_close(factors.original0.norm(), factors.original1.norm())


def test_factors_begin_at_the_nearest_matrix_of_their_rank() -> None:
    layer = nn.Linear(6, 5)
    left, values, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    factor(nn.Sequential(layer), {"0": 2}, {})
    torch.testing.assert_close(layer.weight, (left[:, :2] * values[:2]) @ right[:2], rtol=1e-5, atol=1e-6)

"""Several gloo ranks: the same weights on all of them, whatever a transfer writes, and the guard that sees when not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mergenet.config import merge, parse
from mergenet.data import load_data
from mergenet.data.images import Batch
from mergenet.experiment import Experiment
from mergenet.models import MODELS
from mergenet.training import ranks
from mergenet.training.evaluation import evaluate
from mergenet.training.graph import Graph
from mergenet.training.learner import Learner
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan
from mergenet.training.ranks import ReplicaDrift, check_replicas
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal
from tests.conftest import SMALL
from tests.ranks import on_ranks
from tests.smooth import SMOOTH
from tests.test_resume import StopAt

MakeExperiment = Callable[..., Experiment]
TICKS = 6


def build_graph(experiment: Experiment) -> Graph:
    data = load_data({"digits"}, {})
    plan = make_plan(experiment, 0, data, ranks.world())
    return Graph(experiment, plan, data, 0, torch.device("cpu"))


# --- two ranks of a trio with BatchNorm, dropout in model and adapter -----------------------------------------------


def train_and_report(experiment: Experiment) -> dict[str, Any]:
    graph = build_graph(experiment)
    at_start = {name: value.clone() for name, value in graph.learners["target"].model.state_dict().items()}
    for _ in range(TICKS):
        advance(graph)
    target = graph.learners["target"]
    buffers = {name: value.clone() for name, value in target.model.named_buffers()}
    return {
        "at_start": at_start,
        "weights": {name: value.detach().clone() for name, value in graph.replicated().items()},
        "buffers": buffers,
        "by_itself": by_itself(target),
        "validation": evaluate(target, target.validation),
        "buffers_after": {name: value.clone() for name, value in target.model.named_buffers()},
        "count": len(target.validation),
        "seen": evaluated_samples(graph),
        "updates": graph.edges["main"].transfer.updates,
    }


def by_itself(learner: Learner) -> dict[str, float]:
    """The metrics of this rank's own model over the whole validation split."""
    task, split = learner.options.task, learner.validation
    batch = Batch(learner.stream.data.normalise(split.images), split.labels)
    learner.model.eval()
    with torch.inference_mode():
        return task.metrics(task.sums(learner.model(batch.images), batch))


def evaluated_samples(graph: Graph) -> float:
    """How many samples an evaluation counted over all ranks."""
    target = graph.learners["target"]
    counted = {}
    metrics = type(target.options.task).metrics

    def spy(task: Any, sums: dict[str, Tensor]) -> dict[str, float]:
        counted.update({name: float(value) for name, value in sums.items()})
        return metrics(task, sums)

    type(target.options.task).metrics = spy  # type: ignore[method-assign]
    evaluate(target, target.validation)
    type(target.options.task).metrics = metrics  # type: ignore[method-assign]
    return counted["count"]


def trio_on_two() -> Experiment:
    """A trio with dropout in its adapter and transfers every second tick."""
    change = {
        "transfers": {
            "main": {"adapter": {"lpka": {"dropout": 0.3, "form": "paper"}}, "optimizer": {"adamw": {"lr": 1e-2}}}
        },
        "training": {"epochs": 2},
        "evaluation": {"validation": 0.1009},
    }
    return parse(Experiment, merge(Experiment, SMALL, change))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks report of the trio."""
    return on_ranks(2, train_and_report, tmp_path_factory.mktemp("two"), trio_on_two())


def test_laying_out_ddps_buckets_leaves_no_trace(two: list[dict[str, Any]]) -> None:
    """The backward before the first step must not move weights or BatchNorm statistics."""
    alone = build_graph(trio_on_two()).learners["target"].model.state_dict()
    for report in two:
        for name, value in alone.items():
            assert torch.equal(report["at_start"][name], value), name


def test_ranks_hold_equal_weights_after_writes_and_adapter_updates(two: list[dict[str, Any]]) -> None:
    """Gradients of a written weight are still reduced; adapters start equal and their dropout agrees."""
    assert two[0]["updates"] == 2
    assert any(name.startswith("adapter main") for name in two[0]["weights"])
    for name, value in two[0]["weights"].items():
        assert torch.equal(value, two[1]["weights"][name]), name


def test_evaluation_is_that_of_rank_0s_model_though_batchnorm_statistics_differ(two: list[dict[str, Any]]) -> None:
    assert any(not torch.equal(value, two[1]["buffers"][name]) for name, value in two[0]["buffers"].items())
    assert two[0]["validation"] == two[1]["validation"]
    for report in two:
        for name, value in two[0]["buffers"].items():
            assert torch.equal(report["buffers_after"][name], value), name
    assert two[0]["validation"] == pytest.approx(two[0]["by_itself"], rel=1e-6)


def test_evaluation_counts_every_sample_once(two: list[dict[str, Any]]) -> None:
    assert two[0]["count"] % 2 == 1, "an odd number, which two ranks could only share evenly by padding"
    assert two[0]["seen"] == two[1]["seen"] == two[0]["count"]


# --- two ranks against one --------------------------------------------------------------------------------------------


def train_smooth(experiment: Experiment) -> dict[str, Tensor]:
    MODELS["smooth"] = SMOOTH
    graph = build_graph(experiment)
    for _ in range(TICKS):
        advance(graph)
    return {name: value.detach().clone() for name, value in graph.replicated().items()}


FACTORED = {"2": {"rank": 4}, "classifier": {"rank": 4}}


@pytest.mark.parametrize(
    ("learner", "transfer"),
    [
        ({}, {}),
        ({"factored": FACTORED}, {"encoding": {"factored": {"attends": "both"}}, "optimizer_state": "rescale"}),
    ],
)
def test_two_ranks_end_where_one_does_with_the_same_global_batch(
    learner: dict[str, Any],
    transfer: dict[str, Any],
    small: MakeExperiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smooth = {"model": "smooth", **learner}
    experiment = small(
        {
            "learners": {"source": smooth, "target": {**smooth, "copy": 1}},
            "transfers": {"main": {"to": "target.2", "optimizer": {"adamw": {"lr": 1e-2}}, **transfer}},
            "training": {"epochs": 2},
        }
    )
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    alone = train_smooth(experiment)
    both = on_ranks(2, train_smooth, tmp_path, experiment)
    for name, value in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], value, rtol=1e-3, atol=1e-5, msg=name)


# --- the guard --------------------------------------------------------------------------------------------------------


def plant_drift(experiment: Experiment) -> list[str]:
    graph = build_graph(experiment)
    messages = []
    for name in ("target.features.16.conv.2.weight", "adapter main: layers.0.gate"):
        check_replicas(graph.replicated())
        tensor = graph.replicated()[name]
        before = tensor.detach().clone()
        if ranks.rank() == 1:
            with torch.no_grad():
                tensor.view(-1)[3].add_(1e-6)
        try:
            check_replicas(graph.replicated())
        except ReplicaDrift as error:
            messages.append(str(error))
        with torch.no_grad():
            tensor.copy_(before)
    return messages


def test_the_guard_names_a_planted_drift_on_every_rank(small: MakeExperiment, tmp_path: Path) -> None:
    found = on_ranks(2, plant_drift, tmp_path, small())
    for messages in found:
        assert messages == [
            "'target.features.16.conv.2.weight' differs between rank 0 and rank 1",
            "'adapter main: layers.0.gate' differs between rank 0 and rank 1",
        ]


def test_a_swap_of_two_values_is_a_drift_too() -> None:
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.0])
    assert ranks._fingerprint(one) != ranks._fingerprint(other)


# --- resume -----------------------------------------------------------------------------------------------------------


def test_three_ranks_resume_bit_for_bit(small: MakeExperiment, tmp_path: Path) -> None:
    """DDP lays its buckets out anew after its first step; a resumed run must have them as the whole run had."""
    experiment = small({"training": {"epochs": 2, "batch_size": 240}, "checkpoint": {"every": 3}})
    on_ranks(3, train_whole, tmp_path / "a", experiment, tmp_path / "whole")
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        on_ranks(3, train_until, tmp_path / "b", experiment, tmp_path / "stopped", 7)
    on_ranks(3, train_whole, tmp_path / "c", experiment, tmp_path / "stopped")
    assert_runs_equal(tmp_path / "whole", tmp_path / "stopped")


def train_whole(experiment: Experiment, folder: Path) -> None:
    execute(RunSpec(experiment, 0, {}, folder), Silent())


def train_until(experiment: Experiment, folder: Path, tick: int) -> None:
    execute(RunSpec(experiment, 0, {}, folder), StopAt(tick))

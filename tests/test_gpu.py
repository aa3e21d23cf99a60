"""What holds on a GPU: the same bits each time, few waits, compiled steps. Where there is none, these tests say so."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergenet import randomness
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.models import MODELS, find_model
from mergenet.training.evaluation import evaluate
from mergenet.training.graph import Graph
from tests.compare import assert_equal
from tests.gpu import NEEDS_GPU
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]


def on_gpu(experiment: Experiment, digits: Images) -> Graph:
    return graph_of(experiment, digits, device="cuda")


def test_keyed_randomness_leaves_a_gpu_alone_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the CPU takes no memory of a GPU beside it."""

    def used() -> int:
        raise AssertionError("the GPU was made ready")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", used)
    with randomness.seeded("weights", 0):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=randomness.generator("weights", 0)))


@NEEDS_GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("form", ["gated", "paper"])
def test_two_runs_of_one_experiment_are_equal_bit_for_bit(
    small: MakeExperiment, digits: Images, precision: str, form: str
) -> None:
    change = {"training": {"precision": precision}, "transfers": {"main": {"adapter": {"lpka": {"form": form}}}}}
    one, other = (run(on_gpu(small(change), digits), 5).state_dict() for _ in range(2))
    assert_equal(one, other)


@NEEDS_GPU
@pytest.mark.parametrize("span", ["step", "cycle"])
def test_a_run_taken_up_from_a_checkpoint_equals_one_that_never_stopped(
    small: MakeExperiment, digits: Images, span: str
) -> None:
    experiment = small({"transfers": {"main": {"span": span}}})
    whole = run(on_gpu(experiment, digits), 5)
    file = io.BytesIO()
    torch.save(run(on_gpu(experiment, digits), 3).state_dict(), file)
    file.seek(0)
    again = on_gpu(experiment, digits)
    again.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    assert_equal(run(again, 2).state_dict(), whole.state_dict())


@NEEDS_GPU
def test_a_step_waits_for_the_gpu_once_and_a_transfer_twice(small: MakeExperiment, digits: Images) -> None:
    """To learn that the gradient, and what was generated, is finite, and that training moved it; nothing else waits."""
    graph = run(on_gpu(small({"training": {"batch_size": 64}}), digits), 3)  # far from the end of an epoch
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            run(graph, 2)  # ticks 3 and 4, the transfer before the second
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{wait.filename}:{wait.lineno}" for wait in waits if "synchronizing" in str(wait.message)]
    assert len(places) == 2 * 2 + 2, places


@NEEDS_GPU
@pytest.mark.parametrize("training", [{}, {"accumulation": 2}, {"clip": 1.0}, {"precision": "bf16"}])
def test_compiled_steps_with_transfers_follow_those_that_are_not(
    small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    """A transfer's write between two passes of a graph, an evaluation, and gradients over several parts."""
    torch.compiler.reset()
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    learners = {"source": {"model": "smooth"}, "target": {"model": "smooth", "copy": 1}}
    change = {"learners": learners, "transfers": {"main": {"to": "target.2", "cycle": 1}}}
    eager, compiled = (
        on_gpu(small({**change, "training": {**training, "compile": compile}}), digits) for compile in (False, True)
    )
    for graph in (eager, compiled):
        run(graph, 2)
        evaluate(graph.learners["target"], graph.learners["target"].validation)
        run(graph, 3)
    close = 1e-2 if training.get("precision") == "bf16" else 1e-4
    for name, weight in eager.learners["target"].model.state_dict().items():
        assert torch.allclose(weight, compiled.learners["target"].model.state_dict()[name], atol=close), name


TAUGHT = {
    "kd": {"from": "source", "to": "target", "loss": "kd"},
    "rkd": {"from": "source", "to": "target", "loss": "rkd"},
    "mgd": {"from": "source", "to": "target", "loss": {"mgd": {"resize": "bilinear"}}},
    "uskd": {"to": "target", "loss": "uskd"},
}


def taught(small: MakeExperiment, tmp_path: Path, loss: str, teacher: str, **training: Any) -> Experiment:
    change: dict[str, Any] = {"training": training, "distill": {"main": TAUGHT[loss]}}
    if teacher == "frozen":
        file = tmp_path / "teacher.safetensors"
        with randomness.seeded("teacher"):
            save_file(find_model("resnet18-narrow").build(10).state_dict(), file)
        change["learners"] = {"source": {"frozen": True, "weights": str(file)}}
    return small(change)


@NEEDS_GPU
@pytest.mark.parametrize("teacher", ["frozen", "live"])
@pytest.mark.parametrize("loss", list(TAUGHT))
def test_two_runs_with_a_teacher_are_equal_bit_for_bit(
    small: MakeExperiment, digits: Images, tmp_path: Path, loss: str, teacher: str
) -> None:
    experiment = taught(small, tmp_path, loss, teacher)
    one, other = (run(on_gpu(experiment, digits), 5).state_dict() for _ in range(2))
    assert_equal(one, other)


@NEEDS_GPU
@pytest.mark.parametrize("teacher", ["frozen", "live"])
@pytest.mark.parametrize("loss", ["kd", "uskd"])
def test_a_compiled_student_learns_what_an_eager_one_does(
    small: MakeExperiment, digits: Images, tmp_path: Path, loss: str, teacher: str
) -> None:
    eager, compiled = (
        on_gpu(taught(small, tmp_path, loss, teacher, compile=compile), digits) for compile in (False, True)
    )
    for graph in (eager, compiled):
        run(graph, 2)
        evaluate(graph.learners["target"], graph.learners["target"].validation)
        run(graph, 3)
    for name, weight in eager.learners["target"].model.state_dict().items():
        assert torch.allclose(weight, compiled.learners["target"].model.state_dict()[name], atol=1e-3), name

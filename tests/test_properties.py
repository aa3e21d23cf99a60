"""The method over any two layers and all options: what holds whatever is chosen."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergenet import randomness
from mergenet.conformance.common import through_checkpoint
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.method.layout import Dense, Factors, Layout
from mergenet.method.matching import match_scale
from mergenet.models import MODELS
from mergenet.training.graph import Graph
from tests.cases import KERNELS, SHAPES, Case, Rig, Shape, cases, sides
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]


def some(examples: int) -> settings:
    """So many examples, the same ones each time; one that fails is made smaller, and not explained for minutes."""
    return settings(
        deadline=None, derandomize=True, max_examples=examples, phases=[Phase.explicit, Phase.generate, Phase.shrink]
    )


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@some(100)
@given(case=cases())
def test_a_transfer_writes_what_is_finite_when_it_is_due_and_touches_nothing_else(case: Case) -> None:
    rig, options = Rig(case), case.options
    taking_part = {f"target.{name}" for name in rig.transfer.port.parameters}
    shapes = {name: weight.shape for name, weight in rig.weights().items()}
    written, taught = [], 0
    for step in range(case.steps):
        before = rig.weights()
        if rig.write(step):
            written.append(step)
            generated = rig.transfer.port.read()
        after = rig.weights()
        assert differing(before, after) <= (taking_part if step in written else set())
        assert all(weight.isfinite().all() for weight in after.values())
        assert shapes == {name: weight.shape for name, weight in after.items()}
        rig.train(step)
        trained = rig.weights()
        if rig.learn(step):
            moved = rig.transfer.port.read()
            share = (moved - generated).norm() / moved.norm()
            taught += not torch.equal(moved, generated)  # weights at zero may stay there
            torch.testing.assert_close(rig.transfer.figures["moved"], share, equal_nan=True)
        assert not differing(trained, rig.weights())
    first, last = options.start * case.steps, options.stop * case.steps
    assert written == [s for s in range(options.cycle, case.steps, options.cycle) if first <= s < last]
    assert rig.transfer.total_updates == len(written)
    assert rig.transfer.updates == taught
    assert all(value.isfinite().all() for value in rig.transfer.adapter.state_dict().values())


@some(60)
@given(case=cases(cycles=(1, 3)), data=st.data())
def test_stopped_at_any_step_and_resumed_it_goes_on_bit_for_bit(case: Case, data: st.DataObject) -> None:
    due = [step for step in range(case.steps) if case.options.is_due(step, case.steps)]
    stop = data.draw(st.sampled_from([step + 1 for step in due] or [1]))  # of a whole cycle some are pending then
    whole, cut = Rig(case).ticks(range(case.steps)), Rig(case).ticks(range(stop))
    resumed = Rig(case).load(through_checkpoint(cut.state())).ticks(range(stop, case.steps))
    assert not differing(whole.weights(), resumed.weights())
    assert not differing(whole.transfer.adapter.state_dict(), resumed.transfer.adapter.state_dict())
    figures = (rig.transfer.figures for rig in (whole, resumed))
    torch.testing.assert_close(*figures, rtol=0, atol=0, equal_nan=True)  # of a weight at zero no share is known


# --- layouts -----------------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[Layout, list[Shape]]:
    """A layout and the shapes of the tensors that it lays out."""
    shape = draw(SHAPES)
    out, rest = sides(shape)
    rank = draw(st.integers(1, 4))
    return draw(
        st.sampled_from(
            [
                (Dense(), [shape]),
                (Dense("kernel"), [shape]),
                (Dense(bias=True), [shape, (out,)]),
                (Factors("A"), [(rank, rest)]),
                (Factors("B"), [(out, rank)]),
                (Factors("both"), [(out, rank), (rank, rest)]),
            ]
        )
    )


@some(150)
@given(drawn=laid_out())
def test_a_layout_is_an_order_of_all_entries_and_is_undone_bit_for_bit(drawn: tuple[Layout, list[Shape]]) -> None:
    layout, shapes = drawn
    numbers = iter(torch.arange(1000.0).split(1))
    tensors = [torch.cat([next(numbers) for _ in range(torch.Size(shape).numel())]).view(shape) for shape in shapes]
    matrix = layout.join(tensors)
    assert matrix.dim() == 2
    assert matrix.flatten().sort().values.tolist() == list(range(matrix.numel()))
    parts = layout.split(matrix, tensors)
    assert [part.shape for part in parts] == [tensor.shape for tensor in tensors]
    assert all(torch.equal(part, tensor) for part, tensor in zip(parts, tensors, strict=True))


@some(60)
@given(out=st.integers(1, 4), into=st.integers(1, 4), kernel=st.sampled_from(KERNELS[1:]))
def test_where_each_entry_of_a_kernel_lies(out: int, into: int, kernel: Shape) -> None:
    height, width = kernel
    weight = torch.arange(float(out * into * height * width)).view(out, into, height, width)
    outputs, flat = Dense().join([weight]), Dense("kernel").join([weight])
    for o, i, h, w in product(range(out), range(into), range(height), range(width)):
        assert outputs[o, (i * height + h) * width + w] == weight[o, i, h, w]
        assert flat[o * height + h, i * width + w] == weight[o, i, h, w]


# --- scale -------------------------------------------------------------------------------------------------------


@some(100)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_a_matched_matrix_has_the_scale_of_the_target_and_else_its_own_values(
    rows: int, columns: int, scale: float
) -> None:
    generated, target = (
        torch.randn(rows, columns, generator=randomness.generator("matching", name), dtype=torch.float64)
        for name in ("generated", "target")
    )
    by = {match: match_scale(scale * generated, target, match) for match in ("none", "rows", "norm", "moments")}
    assert torch.equal(by["none"], scale * generated)
    for row, own, wanted in zip(by["rows"], generated, target, strict=True):
        torch.testing.assert_close(row, own * (wanted.square().sum() / own.square().sum()).sqrt())
    torch.testing.assert_close(by["norm"], generated * (target.square().sum() / generated.square().sum()).sqrt())
    around, spread = generated - generated.mean(), (target - target.mean()).square().mean().sqrt()
    standard = around / around.square().mean().sqrt() if rows * columns > 1 else around
    torch.testing.assert_close(by["moments"], target.mean() + spread * standard)


@pytest.mark.parametrize("match", ["rows", "norm", "moments"])
@pytest.mark.parametrize("generated", [torch.zeros(3, 4), torch.full((3, 4), 2.0), torch.zeros(1, 1)])
def test_a_matrix_without_any_scale_is_matched_and_learned_through(match: Any, generated: Tensor) -> None:
    leaf = generated.clone().requires_grad_()
    matched = match_scale(leaf, torch.ones_like(generated), match)
    matched.sum().backward()
    assert matched.isfinite().all() and leaf.grad is not None and leaf.grad.isfinite().all()


# --- in the loop -------------------------------------------------------------------------------------------------

NEVER = {"a cycle beyond the end": {"cycle": 6}, "off": {"enabled": False}, "a start after the last": {"start": 0.95}}
TICKS = 5
WHAT: dict[str, dict[str, Any]] = {
    "gated": {},
    "paper": {"adapter": {"lpka": {"form": "paper"}}},
    "mlp": {"adapter": {"mlp": {"hidden": 8}}},
    "whole": {"encoding": "whole"},
    "both factors": {"encoding": {"svd": {"rank": 2, "attends": "both"}}},
    "kernel": {"flattening": "kernel"},
    "bias": {"bias": True},
    "factored": {"encoding": "factored"},
    "matched": {"match": "moments", "blend": 0.5, "optimizer_state": "rescale"},
    "of a cycle": {"span": "cycle"},
    "of the loss": {"update": "loss"},
}


def both_ways(small: MakeExperiment, **options: Any) -> Experiment:
    """Two smooth networks that teach each other."""
    factored = {"classifier": {"rank": 2}, "2": {"rank": 2}} if options.get("encoding") == "factored" else {}
    learner = {"model": "smooth", "factored": factored}
    common = {"cycle": 1, "encoding": {"svd": {"rank": 2}}, **options}
    goal = "0" if "flattening" in options else "2"
    there = {"from": "source.classifier", "to": f"target.{goal}", **common}
    back = {"from": "target.classifier", "to": f"source.{goal}", **common}
    return small(
        {
            "learners": {"source": learner, "target": {**learner, "copy": 1}},
            "transfers": {"main": there, "back": back},
        }
    )


def differ(one: Graph, other: Graph) -> set[str]:
    """The learners whose weights are not the same bit for bit."""
    pairs = {name: (learner.model, other.learners[name].model) for name, learner in one.learners.items()}
    return {name for name, models in pairs.items() if differing(*(model.state_dict() for model in models))}


@pytest.mark.parametrize("what", WHAT)
def test_a_transfer_that_never_comes_leaves_both_learners_as_alone_and_one_that_comes_changes_both(
    what: str, small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    experiment = both_ways(small, **WHAT[what])
    plain = run(graph_of(experiment.model_copy(update={"transfers": {}}), digits), TICKS)
    assert differ(plain, run(graph_of(experiment, digits), TICKS)) == {"source", "target"}
    for name, never in NEVER.items():
        graph = run(graph_of(both_ways(small, **WHAT[what], **never), digits), TICKS)
        assert differ(plain, graph) == set(), name

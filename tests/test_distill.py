"""Every loss of distillation and amalgamation: exact, finite, one-sided, strict. `tests.distillation` is the table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError, Options, parse
from mergenet.method import amalgamate
from mergenet.method.distill import Distill, dkd, kd, mgd, nkd, rkd, shared, tf_kd, uskd
from mergenet.method.distill.common import resized
from tests import official
from tests.distillation import CLASSES, METHODS, Batch, Method, draw, generator

ALL = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
TRAINED = {name: method for name, method in METHODS.items() if method.build}
LABELLED = [name for name, method in METHODS.items() if getattr(method.options, "labelled", True)]


def value(method: Method, batch: Batch, module: nn.Module | None = None) -> Tensor:
    module = method.module(batch.student[0].dtype) if module is None else module
    return method.loss(module, batch.student, batch.teacher, batch.labels)


def arrays(tensors: list[Tensor]) -> list[Any]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def parameters(module: nn.Module | None) -> list[Tensor]:
    return list(module.parameters()) if module else []


# --- the whole table ---------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_official_formula_written_again(method: Method, samples: int, seed: int) -> None:
    batch, module = draw(method, samples, seed=seed), method.module()
    own = {name: weight.numpy() for name, weight in module.state_dict().items()} if module else {}
    expected = method.second(own, arrays(batch.student), arrays(batch.teacher), batch.labels.numpy())
    made = value(method, batch, module)
    assert made.shape == () and made.dtype == torch.float64
    assert made.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@ALL
def test_is_as_good_in_float32(method: Method) -> None:
    wide, narrow = draw(method, 5), draw(method, 5, torch.float32)
    made = value(method, narrow)
    assert made.dtype == torch.float32
    assert made.item() == pytest.approx(value(method, wide).item(), rel=2e-5)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("opposed", [False, True])
def test_is_finite_with_its_gradients_at_extreme_values(
    method: Method, dtype: torch.dtype, scale: float, opposed: bool
) -> None:
    """Where a student is sure, right or wrong, and where the teacher is sure of the opposite."""
    batch, module = draw(method, 5, dtype, scale=1.0), method.module(dtype)
    for tensors, sign in ((batch.student, 1), (batch.teacher, -1 if opposed else 1)):
        for tensor in tensors:
            tensor.data = sign * scale * tensor.detach().sign()
    made = value(method, batch, module)
    made.backward()
    gradients = [tensor.grad for tensor in [*batch.student, *parameters(module)] if tensor.grad is not None]
    assert made.isfinite()
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@ALL
def test_trains_the_student_and_never_the_teacher(method: Method) -> None:
    batch = draw(method, 5)
    value(method, batch).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in batch.student)
    assert all(tensor.grad is None for tensor in batch.teacher)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.differentiates])
def test_has_the_gradient_of_its_value(name: str) -> None:
    """Against differences in float64."""
    method = METHODS[name]
    batch, module = draw(method, 3), method.module()

    def of(*student: Tensor) -> Tensor:
        return method.loss(module, list(student), batch.teacher, batch.labels)

    assert torch.autograd.gradcheck(of, tuple(batch.student))


@ALL
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_computes_half_precision_in_float32(method: Method, narrow: torch.dtype) -> None:
    """Of models under autocast, and under autocast itself: the same bits as of the same numbers in float32."""
    batch, module = draw(method, 5, narrow), method.module(torch.float32)
    widened = Batch([t.float() for t in batch.student], [t.float() for t in batch.teacher], batch.labels)
    expected = value(method, widened, module)
    assert expected.dtype == torch.float32
    assert torch.equal(value(method, batch, module), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value(method, batch, module), expected)


@ALL
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_takes_class_numbers_of_any_integer_type(method: Method, dtype: torch.dtype) -> None:
    batch = draw(method, 5)
    other = Batch(batch.student, batch.teacher, batch.labels.to(dtype))
    assert torch.equal(value(method, batch), value(method, other))


@pytest.mark.parametrize("name", TRAINED)
def test_every_layer_learns(name: str) -> None:
    """Each weight has a gradient, and some steps of SGD on them alone lower the loss."""
    method = METHODS[name]
    batch, module = draw(method, 6, scale=0.5), method.module()
    assert module is not None
    rate = 0.3 if isinstance(module, uskd.UskdLoss) else 1e-2
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        made = value(method, batch, module)
        made.backward()
        if step == 0:
            assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())
        optimizer.step()
        losses.append(made.item())
    assert losses[-1] < losses[0] and np.mean(losses[10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1, CLASSES]), "labels go from 0 to 5"),
        (torch.tensor([0, -1, 2]), "labels go from -1 to 2"),
        (torch.tensor([0, 1]), "one a sample"),
        (torch.tensor([[0], [1], [2]]), "one a sample"),
        (torch.tensor([0.0, 1.0, 2.0]), "class numbers"),
        (torch.tensor([True, False, True]), "class numbers"),
    ],
)
def test_refuses_labels_that_are_no_classes(name: str, labels: Tensor, said: str) -> None:
    batch = draw(METHODS[name], 3)
    with pytest.raises(InputError, match=said) as refused:
        value(METHODS[name], Batch(batch.student, batch.teacher, labels))
    assert "\n" not in str(refused.value)


def _spoilt(tensor: Tensor) -> list[Tensor]:
    return [tensor[:-1], tensor[:0], tensor.unsqueeze(0), tensor.flatten(), tensor.sum()]


@ALL
def test_refuses_shapes_that_do_not_agree(method: Method) -> None:
    """Each tensor in turn with a sample less, with none, with a dimension more, as one vector, as a number."""
    batch = draw(method, 3)
    for side in ("student", "teacher"):
        for at, tensor in enumerate(getattr(batch, side)):
            for wrong in _spoilt(tensor):
                spoilt = Batch(list(batch.student), list(batch.teacher), batch.labels)
                getattr(spoilt, side)[at] = wrong
                with pytest.raises(InputError) as refused:
                    value(method, spoilt)
                assert "\n" not in str(refused.value)


# --- options -----------------------------------------------------------------------------------------------------

OFFICIAL: dict[str, tuple[Options, dict[str, Any]]] = {
    "kd": (kd.Kd(), {"temperature": 4.0, "cross_entropy": 0.1, "soft_targets": 0.9, "over": "samples"}),
    "rkd": (rkd.Rkd(), {"on": "features", "distance": 25.0, "angle": 50.0, "cross_entropy": 1.0}),
    "dkd": (dkd.Dkd(), {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "warm_up": 20.0, "cross_entropy": 1.0}),
    "nkd": (nkd.Nkd(), {"temperature": 3.0, "gamma": 3.5, "cross_entropy": 1.0}),
    "tf_kd_self": (tf_kd.TfKdSelf(), {"temperature": 20.0, "alpha": 0.95, "multiplier": 1.0}),
    "tf_kd_reg": (tf_kd.TfKdReg(), {"temperature": 40.0, "alpha": 0.95, "multiplier": 1.0, "correct": 0.99}),
    "uskd": (
        uskd.Uskd(),
        {"target": 0.1, "non_target": 0.1, "weak": 0.1, "ranked_by": "log_probabilities", "cross_entropy": 1.0},
    ),
    "mgd": (mgd.Mgd(), {"weight": 1.2e-3, "dropped": 0.15, "resize": "none", "cross_entropy": 1.0}),
}


class Edge(Options):
    loss: Distill


class Union(Options):
    loss: amalgamate.Amalgamation


@pytest.mark.parametrize("word", OFFICIAL)
def test_each_method_stands_under_its_word_with_the_official_defaults(word: str) -> None:
    options, defaults = OFFICIAL[word]
    assert parse(Edge, {"loss": word}).loss == options
    assert options.dump() == defaults


def test_no_method_is_registered_without_its_defaults_here() -> None:
    choice = Distill.__metadata__[0]  # type: ignore[attr-defined]
    assert set(choice.options) == set(OFFICIAL)
    assert {type(options) for options, _ in OFFICIAL.values()} <= {type(method.options) for method in METHODS.values()}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kd": {"temperature": 0.0}}, "temperature"),
        ({"kd": {"temprature": 1.0}}, "nearest is 'temperature'"),
        ({"kdd": {}}, "nearest is"),
        ({"mgd": {"dropped": 1.0}}, "dropped"),
        ({"tf_kd_self": {"alpha": 1.5}}, "alpha"),
        ({"rkd": {"on": "both"}}, "on"),
    ],
)
def test_wrong_options_are_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(Edge, {"loss": wrong})


# --- single methods ----------------------------------------------------------------------------------------------


def test_terms_of_dkd_agree_with_the_official_formula_written_again() -> None:
    batch = draw(METHODS["dkd"], 5)
    student, teacher = batch.student[0], batch.teacher[0]
    _, target, others = official.dkd(*arrays([student, teacher]), batch.labels.numpy(), 2.5, 1.0, 8.0, 1.0)
    assert dkd.tckd(student, teacher, batch.labels, 2.5).item() == pytest.approx(target, rel=1e-10)
    assert dkd.nckd(student, teacher, batch.labels, 2.5).item() == pytest.approx(others, rel=1e-10)


def test_dkd_where_the_official_code_is_not_a_number() -> None:
    """A student so sure that the rest's probability is zero in float32: the divergence goes on growing."""
    student = torch.tensor([[400.0, 0.0, 0.0]], requires_grad=True)
    teacher, labels = torch.zeros(1, 3), torch.tensor([0])
    probabilities = student.softmax(1)
    naive = functional.kl_div(probabilities[:, 1:].sum(1).log(), torch.tensor([2 / 3]), reduction="sum")
    assert not naive.isfinite()
    # the teacher's 1/3 and 2/3 against log-probabilities of 0 and log(2) - 400
    by_hand = (np.log(1 / 3) - 0.0) / 3 + 2 * (np.log(2 / 3) - (np.log(2) - 400)) / 3
    made = dkd.tckd(student, teacher, labels, 1.0)
    assert made.item() == pytest.approx(by_hand, rel=1e-6)
    made.backward()
    assert student.grad is not None
    # of the logits, p_student - p_teacher of the two, the rest's shared equally
    assert student.grad[0].tolist() == pytest.approx([1 - 1 / 3, -1 / 3, -1 / 3], rel=1e-5)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.0), (1, 0.05), (10, 0.5), (20, 1.0), (200, 1.0), (0.5, 0.025)])
def test_dkd_warms_up(epoch: float, factor: float) -> None:
    assert dkd.warm_up(epoch) == factor
    assert dkd.warm_up(epoch, 0.0) == 1.0


def test_dkd_refuses_an_epoch_below_zero() -> None:
    with pytest.raises(InputError, match="epoch -1"):
        dkd.warm_up(-1)


def test_rkd_takes_logits_beside_features_and_only_there() -> None:
    a, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(InputError, match="on 'features'"):
        rkd.loss(a, a, labels)
    with pytest.raises(InputError, match="on 'logits'"):
        rkd.loss(a, a, labels, a, rkd.VARIANTS["mergenet"])
    with pytest.raises(InputError, match="two or more"):
        rkd.distance_term(a[:1], a[:1])


def test_rkd_of_two_samples_at_one_point_has_a_gradient_all_the_same() -> None:
    student = torch.ones(3, 2, requires_grad=True)
    terms = rkd.distance_term(student, torch.eye(3)) + rkd.angle_term(student, torch.eye(3))
    terms.backward()
    assert terms.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_uskd_gradient_holds_the_weights_of_the_label_and_the_soft_labels_still() -> None:
    """p - onehot, weighed, for the label; softmax over the others minus the soft labels for the rest."""
    batch = draw(METHODS["uskd"], 4)
    student, labels = batch.student[0], batch.labels
    weak = torch.randn(4, CLASSES, dtype=torch.float64, generator=generator(), requires_grad=True)
    uskd.target_term(student, labels).backward()
    weights = uskd.target_weights(student, labels).unsqueeze(1)
    onehot = functional.one_hot(labels, CLASSES)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, weights * (student.softmax(1) - onehot) / 4)

    student.grad = None
    uskd.non_target_term(student, weak, labels).backward()
    soft = uskd.zipf_labels(student, weak, labels)
    for row, label in enumerate(labels):
        others = [c for c in range(CLASSES) if c != label]
        expected = (student[row, others].softmax(0) - soft[row]) / 4
        torch.testing.assert_close(student.grad[row, others], expected)
        assert student.grad[row, label] == 0
    assert weak.grad is None


def test_the_weak_head_averages_over_positions_and_trains_the_features() -> None:
    head = uskd.WeakHead(3, 4)
    features = torch.randn(2, 3, 5, 5, requires_grad=True)
    torch.testing.assert_close(head(features), head(features.mean((2, 3))))
    uskd.weak_term(head(features), torch.tensor([0, 3])).backward()
    assert features.grad is not None and features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TRAINED)
def test_layers_of_another_precision_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"float32; for torch\.float64"):
        value(METHODS[name], draw(METHODS[name], 3), METHODS[name].module(torch.float32))


def test_the_mask_is_the_generators_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same = (mgd.draw_mask(50, 40, 0.15, generator()) for _ in range(2))
    going_on = generator()
    mgd.draw_mask(50, 40, 0.15, going_on)
    assert torch.equal(one, same) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, mgd.draw_mask(50, 40, 0.15, going_on))
    assert one.shape == (50, 40, 1, 1) and set(one.unique().tolist()) == {0.0, 1.0}
    assert (1 - one).mean().item() == pytest.approx(0.15, abs=0.03)
    assert mgd.draw_mask(5, 4, 0.0, generator()).min() == 1


def test_mgd_generates_without_the_masked_channels() -> None:
    module = mgd.MaskedGeneration(3, 3)
    features, mask = torch.randn(2, 3, 4, 4), torch.ones(2, 3, 1, 1)
    mask[:, 1] = 0
    changed = features.clone()
    changed[:, 1] += 1.0
    assert torch.equal(module(features, mask), module(changed, mask))
    assert not torch.equal(module(features, 1 - mask), module(changed, 1 - mask))


def test_mgd_resizes_where_asked_and_says_so_where_not() -> None:
    student, teacher, logits = torch.randn(2, 3, 2, 2), torch.randn(2, 4, 4, 4), torch.randn(2, CLASSES)
    labels = torch.tensor([0, 1])
    with pytest.raises(InputError, match="height and width must be equal, or resize 'bilinear'"):
        mgd.Mgd().build(3, 4)(student, teacher, logits, labels, generator())
    resizing = mgd.Mgd(resize="bilinear").build(3, 4)
    larger = functional.interpolate(student, size=(4, 4), mode="bilinear", align_corners=False)
    calls = [resizing(given, teacher, logits, labels, generator()) for given in (student, larger)]
    assert torch.equal(*calls)


def test_mgd_has_no_layer_to_align_where_channels_are_equal() -> None:
    assert mgd.MaskedGeneration(4, 4).align is None
    assert mgd.MaskedGeneration(3, 4).align is not None


# --- shared weights ----------------------------------------------------------------------------------------------


def test_a_shared_weight_is_the_first_channels_of_the_larger() -> None:
    large = torch.arange(12.0).reshape(3, 4).requires_grad_()
    small = shared.slice_of(large, (2, 3))
    assert small.tolist() == [[0, 1, 2], [4, 5, 6]]
    (small * torch.tensor([[1.0, 2, 3], [4, 5, 6]])).sum().backward()
    assert large.grad is not None
    assert large.grad.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]


def test_channels_go_by_their_l1_norm() -> None:
    large = torch.tensor([[3.0, -3.0, 0.0], [1.0, 0.0, -4.5]])
    assert shared.channel_order(large, 0).tolist() == [0, 1]  # 6 and 5.5, though the second's squares are more
    assert shared.channel_order(large, 1).tolist() == [2, 0, 1]  # 4.5, 4 and 3
    kernels = large.reshape(2, 3, 1, 1).expand(2, 3, 2, 2)
    assert shared.channel_order(kernels, 1).tolist() == [2, 0, 1]


def test_a_sorted_slice_takes_the_largest_channels_and_trains_them() -> None:
    large = torch.tensor([[1.0, -5.0, 0.0], [2.0, 0.0, -3.5]], requires_grad=True)
    inputs = shared.channel_order(large, 1)
    small = shared.slice_of(large, (1, 2), inputs=inputs)
    assert small.tolist() == [[-5, 0]]
    small.sum().backward()
    assert large.grad is not None and large.grad.tolist() == [[0, 1, 1], [0, 0, 0]]
    outputs = shared.channel_order(large.flip(0), 0)
    assert shared.slice_of(large.flip(0), (1, 3), outputs).tolist() == [[1, -5, 0]]


@pytest.mark.parametrize(
    ("shape", "said"),
    [((4, 4), "may not be more"), ((3, 5), "may not be more"), ((3,), "no slice"), ((3, 4, 1), "no slice")],
)
def test_a_slice_that_is_none_is_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        shared.slice_of(torch.ones(3, 4), shape)


def test_a_slice_of_another_kernel_and_a_wrong_order_are_refused() -> None:
    with pytest.raises(InputError, match="another kernel"):
        shared.slice_of(torch.ones(3, 4, 3, 3), (2, 2, 1, 1))
    with pytest.raises(InputError, match="must name each"):
        shared.slice_of(torch.ones(3, 4), (2, 2), outputs=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="dim 2"):
        shared.channel_order(torch.ones(3, 4), 2)


@pytest.mark.parametrize(("size", "wanted"), [((5, 5), (4, 4)), ((2, 3), (4, 2)), ((1, 4), (3, 4))])
def test_maps_are_resized_as_torch_does_with_gradients_that_add_up_in_one_order(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    like, weights = torch.zeros(2, 7, *wanted), torch.randn(2, 3, *wanted, dtype=torch.float64)
    own = resized(maps, like)
    torchs = functional.interpolate(maps, size=wanted, mode="bilinear", align_corners=False)
    assert "Upsample" not in str(own.grad_fn) and torch.allclose(own, torchs, atol=1e-12)
    (ours,), (theirs,) = (torch.autograd.grad((one * weights).sum(), maps) for one in (own, torchs))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.equal(resized(maps.detach(), like), torchs.detach())
    assert resized(maps, maps) is maps

"""Common feature learning: its terms by hand, the discrepancy's properties, layers that train.

That the whole agrees with the official formulas, is finite, one-sided and strict, `tests.test_distill` shows.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mergenet.config import InputError, parse
from mergenet.method import amalgamate
from mergenet.method.amalgamate import VARIANTS, Cfl, alignment, mmd, reconstruction, soft_targets
from mergenet.method.common_features import CommonFeatures
from tests.test_distill import Union
from tests.test_distill_invariances import ANY, close, normal, seeds

exp, log = math.exp, math.log


# --- by hand -----------------------------------------------------------------------------------------------------


def test_soft_targets_by_hand() -> None:
    """Teachers of two classes and of one, at temperature 2; batches of one and of two."""
    student = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    teachers = [torch.tensor([[1.0, 1.0], [3.0, 0.0]]).double(), torch.tensor([[-2.0], [1.0]]).double()]
    s1 = [exp(x / 2) / (exp(1) + exp(0) + exp(-0.5)) for x in (2, 0, -1)]
    s2 = [exp(x / 2) / (exp(0) + exp(0.5) + exp(0)) for x in (0, 1, 0)]
    t1 = [exp(x / 2) / (exp(0.5) + exp(0.5) + exp(-1)) for x in (1, 1, -2)]
    t2 = [exp(x / 2) / (exp(1.5) + exp(0) + exp(0.5)) for x in (3, 0, 1)]
    one = -sum(t * log(s) for t, s in zip(t1, s1, strict=True))
    two = -sum(t * log(s) for t, s in zip(t2, s2, strict=True))
    assert soft_targets(student, teachers, 2.0).item() == pytest.approx(4 * (one + two) / 2, rel=1e-12)
    alone = soft_targets(student[:1], [teacher[:1] for teacher in teachers], 2.0)
    assert alone.item() == pytest.approx(4 * one, rel=1e-12)
    entropy = -sum(t * log(t) for t in t1) - sum(t * log(t) for t in t2)
    divergence = soft_targets(student, teachers, 2.0, "divergence").item()
    assert divergence == pytest.approx(4 * (one + two - entropy) / 2, rel=1e-12)


def test_discrepancy_by_hand() -> None:
    """Directions at right angles are the square root of two apart; their lengths do not count."""
    one, other = torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    near = sum(exp(-1e-12 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))  # at the least distance
    far = sum(exp(-2 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))
    assert mmd(one, other).item() == pytest.approx(2 * near - 2 * far, rel=1e-12)

    # two samples: (east, north) and (east, west); east and west are two apart
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    other = torch.tensor([[5.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    opposite = sum(exp(-4 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))
    within = (2 * near + 2 * far) / 4 + (2 * near + 2 * opposite) / 4
    between = (near + opposite + far + far) / 4
    assert mmd(one, other).item() == pytest.approx(within - 2 * between, rel=1e-12)
    assert alignment(one, [other, one, other]).item() == pytest.approx(2 * (within - 2 * between), rel=1e-12)
    # with one kernel of width 1
    of_one = (2 + 2 * exp(-1)) / 4 + (2 + 2 * exp(-2)) / 4 - 2 * (1 + exp(-2) + 2 * exp(-1)) / 4
    assert mmd(one, other, [1.0]).item() == pytest.approx(of_one, rel=1e-9)


def test_reconstruction_by_hand() -> None:
    decoded = [torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0], [0.0]])]
    teachers = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0], [0.0]])]
    assert reconstruction(decoded, teachers).item() == pytest.approx((4 + 9 + 25) / 4 + 9 / 2)


def test_each_part_has_its_weight() -> None:
    options = Cfl(soft_targets=2.0, alignment=3.0, reconstruction=5.0, temperature=2.0, features="vectors", width=3)
    loss = options.build(4, [5, 6]).double()
    logits, features = normal((3, 4), 0), normal((3, 4), 1)
    teachers, taught = [normal((3, 1), 2), normal((3, 3), 3)], [normal((3, 5), 4), normal((3, 6), 5)]
    common = loss.common(features, taught)
    parts = [
        2 * soft_targets(logits, teachers, 2.0),
        3 * alignment(common.student, common.teachers),
        5 * reconstruction(common.decoded, taught),
    ]
    close(loss(logits, teachers, features, taught), torch.stack(parts).sum())


def test_discrepancy_trains_the_extractor_from_both_sides() -> None:
    student, teacher = normal((3, 4), 0).requires_grad_(), normal((3, 4), 1).requires_grad_()
    alignment(student, [teacher]).backward()
    assert all(side.grad is not None and side.grad.abs().sum() > 0 for side in (student, teacher))


# --- whatever the sets -------------------------------------------------------------------------------------------


@ANY
@given(samples=st.integers(1, 6), dimensions=st.integers(1, 5), seed=seeds)
def test_discrepancy_is_zero_of_equal_sets_and_never_below(samples: int, dimensions: int, seed: int) -> None:
    one, other = normal((samples, dimensions, 2), seed), normal((samples, dimensions, 2), seed + 1)
    assert mmd(one, one) == 0
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    assert 0 <= mmd(one, one[order]) < 1e-9  # where rounding would have it below
    assert mmd(one, other) >= 0
    assert mmd(one.float(), one.float()) == 0
    close(mmd(one, other), mmd(other, one))


@ANY
@given(samples=st.integers(2, 6), seed=seeds, scale=st.floats(0.01, 100.0))
def test_discrepancy_minds_neither_rotation_of_both_nor_scale(samples: int, seed: int, scale: float) -> None:
    one, other = normal((samples, 4), seed), normal((samples, 4), seed + 1)
    rotation = torch.linalg.qr(normal((4, 4), seed + 2)).Q
    close(mmd(scale * one @ rotation, other @ rotation), mmd(one, other), 1e-7)
    assert mmd(one, -one) > 1e-3


@ANY
@given(samples=st.integers(1, 5), seed=seeds)
def test_soft_targets_of_one_teacher_who_is_the_student_are_no_divergence(samples: int, seed: int) -> None:
    student = normal((samples, 5), seed, 3.0)
    parts = [student[:, :2], student[:, 2:3], student[:, 3:]]
    assert soft_targets(student, parts, 3.0, "divergence") == 0
    # what stands on one teacher's logits alone does change the union's probabilities
    assert soft_targets(student, [parts[0] + 1.0, *parts[1:]], 3.0, "divergence") > 0


# --- layers ------------------------------------------------------------------------------------------------------


def sizes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in module.parameters()]


def test_layers_are_the_official_ones_in_their_order() -> None:
    """Weights of the official module, in the order of its `parameters()`: copied one after the other they fit."""
    extractor = [(4, 8, 3, 3), (4, 4, 3, 3), (4, 8, 1, 1), *[(4, 4, 3, 3)] * 4]
    decoders = [(6, 4, 3, 3), (6, 6, 1, 1), (7, 4, 3, 3), (7, 7, 1, 1)]
    aligned = [(8, 6, 1, 1), (8, 7, 1, 1), (8, 5, 1, 1)]  # teachers, student
    assert sizes(CommonFeatures(5, [6, 7], 4, "maps")) == [*aligned, *extractor, *decoders]

    def linear(outputs: int, inputs: int) -> list[tuple[int, ...]]:
        return [(outputs, inputs), (outputs,)]

    vectors = [(4, 6), (4, 7), (4, 5), (4, 4), (4, 4), (6, 4), (6, 6), (7, 4), (7, 7)]
    expected = [size for shape in vectors for size in linear(*shape)]
    assert sizes(CommonFeatures(5, [6, 7], 4, "vectors")) == expected


def test_one_extractor_is_shared_by_all() -> None:
    module = CommonFeatures(3, [3], 2, "maps")
    module.align_student.load_state_dict(module.align_teachers[0].state_dict())
    maps = torch.randn(2, 3, 4, 4)
    common = module(maps, [maps])
    assert torch.equal(common.student, common.teachers[0])
    assert common.student.shape == (2, 2, 4, 4) and common.decoded[0].shape == (2, 3, 4, 4)


def test_the_width_of_the_space_is_the_options() -> None:
    assert VARIANTS["kamal"].build(512, [512, 300]).common.align_student[0].out_features == 128
    assert VARIANTS["official"].build(512, [256]).common.align_student[0].out_channels == 2 * 128
    assert Cfl(width=9).build(512, [256]).common.align_student[0].out_channels == 18


def test_a_student_is_drawn_to_its_teachers() -> None:
    """Two teachers of two classes each, no labels: after some steps the answers to the union are theirs."""
    torch.manual_seed(0)
    images = torch.randn(24, 6)
    teachers = [nn.Linear(6, 2), nn.Linear(6, 2)]
    with torch.no_grad():
        answers = [4 * teacher(images) for teacher in teachers]
    features, classify = nn.Sequential(nn.Linear(6, 32), nn.ReLU()), nn.Linear(32, 4)
    cfl = Cfl(features="vectors", width=8).build(32, [6, 6])
    trained = [*features.parameters(), *classify.parameters(), *cfl.parameters()]
    optimizer = torch.optim.Adam(trained, lr=0.03)
    losses = []
    for _ in range(250):
        optimizer.zero_grad()
        seen = features(images)
        loss = cfl(classify(seen), answers, seen, [images, images])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    right = (classify(features(images)).argmax(1) == torch.cat(answers, dim=1).argmax(1)).float().mean()
    assert losses[-1] < 0.5 * losses[0] and right > 0.9


# --- options and refusals ----------------------------------------------------------------------------------------


def test_the_defaults_are_the_official_ones() -> None:
    official = {"soft_targets": 1.0, "alignment": 10.0, "reconstruction": 10.0, "temperature": 1.0}
    assert Cfl().dump() == {**official, "compared": "cross_entropy", "features": "maps", "width": 128}
    kamal = {"compared": "divergence", "features": "vectors", "width": "quarter"}
    assert VARIANTS["official"] == Cfl() and VARIANTS["kamal"] == Cfl(**kamal)  # type: ignore[arg-type]
    assert VARIANTS["kamal_four"].dump() == {**official, **kamal, "alignment": 20.0, "reconstruction": 20.0}
    assert parse(Union, {"loss": "cfl"}).loss == Cfl()
    assert amalgamate.SIGMAS == (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)


A = torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: soft_targets(A, []), "teachers' logits are none"),
        (lambda: soft_targets(A, [A[:, :2], A[:1, 2:]]), r"they must be \(2, classes\) each"),
        (lambda: soft_targets(A, [A[:, :2], A]), r"\(2, 4\) and \(2, 6\)"),
        (lambda: mmd(A, A[:1]), "they must agree"),
        (lambda: mmd(A[:0], A[:0]), "they must agree"),
        (lambda: alignment(A, []), "one or more"),
        (lambda: reconstruction([A], [A, A]), "they must agree"),
        (lambda: reconstruction([A], [A[:1]]), "they must agree"),
        (lambda: reconstruction([], []), "they must agree"),
        (lambda: CommonFeatures(3, [], 2, "maps"), "one or more"),
        (lambda: CommonFeatures(4, [4], 2, "vectors")(A, [A, A]), "must agree as"),
        (lambda: CommonFeatures(4, [3], 2, "vectors")(A, [A]), "must agree as"),
        (lambda: CommonFeatures(4, [4], 2, "maps")(A, [A]), r"\(batch, 4, height, width\)"),
        (lambda: CommonFeatures(4, [4], 2, "maps")(torch.zeros(2, 4, 3, 3), [torch.zeros(2, 4, 3, 2)]), "must agree"),
    ],
)
def test_what_does_not_agree_is_refused_by_one_line(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)

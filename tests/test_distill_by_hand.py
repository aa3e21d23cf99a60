"""Losses of distillation on tiny tensors, worked out by hand: plain Python beside each."""

import math

import pytest
import torch
from torch import Tensor, nn

from mergenet.method.distill import dkd, kd, mgd, nkd, rkd, tf_kd, uskd

# two samples of three classes; student a and teacher b
A1, B1, Y1 = (2.0, 0.0, -1.0), (1.0, 1.0, -2.0), 0
A2, B2, Y2 = (0.0, 1.0, 0.0), (3.0, 0.0, 1.0), 2
STUDENT = torch.tensor([A1, A2], dtype=torch.float64)
TEACHER = torch.tensor([B1, B2], dtype=torch.float64)
LABELS = torch.tensor([Y1, Y2])

exp, log = math.exp, math.log

# the probabilities at temperatures 1 and 2
S1 = [exp(x) / (exp(2) + exp(0) + exp(-1)) for x in A1]
S2 = [exp(x) / (exp(0) + exp(1) + exp(0)) for x in A2]
T1 = [exp(x) / (exp(1) + exp(1) + exp(-2)) for x in B1]
T2 = [exp(x) / (exp(3) + exp(0) + exp(1)) for x in B2]
HALF_S1 = [exp(x / 2) / (exp(1) + exp(0) + exp(-0.5)) for x in A1]
HALF_S2 = [exp(x / 2) / (exp(0) + exp(0.5) + exp(0)) for x in A2]
HALF_T1 = [exp(x / 2) / (exp(0.5) + exp(0.5) + exp(-1)) for x in B1]
HALF_T2 = [exp(x / 2) / (exp(1.5) + exp(0) + exp(0.5)) for x in B2]

HARD1, HARD2 = -log(S1[0]), -log(S2[2])  # cross-entropies: 0.1698 and 1.5514


def approx(value: float) -> object:
    return pytest.approx(value, rel=1e-12)


def first(tensor: Tensor) -> Tensor:
    return tensor[:1]


def test_the_numbers_below_are_those_of_a_calculator() -> None:
    for by_formula, by_calculator in (
        ([HARD1, HARD2], [0.169846, 1.551445]),
        (HALF_S1, [0.628532, 0.231224, 0.140244]),
        (HALF_T2, [0.628532, 0.140244, 0.231224]),
    ):
        assert by_formula == pytest.approx(by_calculator, abs=1e-6)


def test_kd() -> None:
    divergences = [
        sum(t * log(t / s) for t, s in zip(HALF_T1, HALF_S1, strict=True)),
        sum(t * log(t / s) for t, s in zip(HALF_T2, HALF_S2, strict=True)),
    ]
    options = kd.Kd(temperature=2.0)
    one = 0.1 * HARD1 + 0.9 * 2 * 2 * divergences[0]
    both = 0.1 * (HARD1 + HARD2) / 2 + 0.9 * 2 * 2 * (divergences[0] + divergences[1]) / 2
    assert kd.loss(first(STUDENT), first(TEACHER), first(LABELS), options).item() == approx(one)
    assert kd.loss(STUDENT, TEACHER, LABELS, options).item() == approx(both)
    # over all 2 * 3 entries
    assert kd.soft_targets(STUDENT, TEACHER, 2.0, "entries").item() == approx(4 * sum(divergences) / 6)


def test_dkd() -> None:
    target1 = HALF_T1[0] * log(HALF_T1[0] / HALF_S1[0]) + (1 - HALF_T1[0]) * log((1 - HALF_T1[0]) / (1 - HALF_S1[0]))
    target2 = HALF_T2[2] * log(HALF_T2[2] / HALF_S2[2]) + (1 - HALF_T2[2]) * log((1 - HALF_T2[2]) / (1 - HALF_S2[2]))
    # the softmax over classes 1 and 2 of the first sample, 0 and 1 of the second
    rest_t1, rest_s1 = exp(0.5) / (exp(0.5) + exp(-1)), exp(0) / (exp(0) + exp(-0.5))
    rest_t2, rest_s2 = exp(1.5) / (exp(1.5) + exp(0)), exp(0) / (exp(0) + exp(0.5))
    others1 = rest_t1 * log(rest_t1 / rest_s1) + (1 - rest_t1) * log((1 - rest_t1) / (1 - rest_s1))
    others2 = rest_t2 * log(rest_t2 / rest_s2) + (1 - rest_t2) * log((1 - rest_t2) / (1 - rest_s2))

    assert dkd.tckd(first(STUDENT), first(TEACHER), first(LABELS), 2.0).item() == approx(4 * target1)
    assert dkd.nckd(first(STUDENT), first(TEACHER), first(LABELS), 2.0).item() == approx(4 * others1)
    target, others = 4 * (target1 + target2) / 2, 4 * (others1 + others2) / 2
    assert dkd.tckd(STUDENT, TEACHER, LABELS, 2.0).item() == approx(target)
    assert dkd.nckd(STUDENT, TEACHER, LABELS, 2.0).item() == approx(others)
    # the third of 20 epochs of warm-up
    made = dkd.loss(STUDENT, TEACHER, LABELS, 3, dkd.Dkd(temperature=2.0))
    assert made.item() == approx((HARD1 + HARD2) / 2 + 3 / 20 * (1 * target + 8 * others))


def test_nkd() -> None:
    target1, target2 = -T1[0] * log(S1[0]), -T2[2] * log(S2[2])  # at temperature 1
    rest_t1, rest_s1 = exp(0.5) / (exp(0.5) + exp(-1)), exp(0) / (exp(0) + exp(-0.5))  # at 2
    rest_t2, rest_s2 = exp(1.5) / (exp(1.5) + exp(0)), exp(0) / (exp(0) + exp(0.5))
    others1 = -rest_t1 * log(rest_s1) - (1 - rest_t1) * log(1 - rest_s1)
    others2 = -rest_t2 * log(rest_s2) - (1 - rest_t2) * log(1 - rest_s2)

    options = nkd.Nkd(temperature=2.0)
    one = HARD1 + target1 + 3.5 * 2 * 2 * others1
    both = (HARD1 + HARD2) / 2 + (target1 + target2) / 2 + 3.5 * 2 * 2 * (others1 + others2) / 2
    assert nkd.loss(first(STUDENT), first(TEACHER), first(LABELS), options).item() == approx(one)
    assert nkd.loss(STUDENT, TEACHER, LABELS, options).item() == approx(both)
    assert nkd.target_term(STUDENT, TEACHER, LABELS).item() == approx((target1 + target2) / 2)
    assert nkd.non_target_term(STUDENT, TEACHER, LABELS, 2.0).item() == approx(4 * (others1 + others2) / 2)


def test_tf_kd_self() -> None:
    divergences = [
        sum(t * log(t / s) for t, s in zip(HALF_T1, HALF_S1, strict=True)),
        sum(t * log(t / s) for t, s in zip(HALF_T2, HALF_S2, strict=True)),
    ]
    options = tf_kd.TfKdSelf(temperature=2.0, multiplier=3.0)
    one = 0.05 * HARD1 + 0.95 * 3 * 4 * divergences[0] / 3
    both = 0.05 * (HARD1 + HARD2) / 2 + 0.95 * 3 * 4 * sum(divergences) / 6
    assert tf_kd.self_loss(first(STUDENT), first(TEACHER), first(LABELS), options).item() == approx(one)
    assert tf_kd.self_loss(STUDENT, TEACHER, LABELS, options).item() == approx(both)


def test_tf_kd_reg() -> None:
    right, wrong = exp(0.99 / 10), exp(0.005 / 10)  # at temperature 10, of three classes
    right, wrong = right / (right + 2 * wrong), wrong / (right + 2 * wrong)
    one = right * log(right / S1[0]) + wrong * log(wrong / S1[1]) + wrong * log(wrong / S1[2])
    two = wrong * log(wrong / S2[0]) + wrong * log(wrong / S2[1]) + right * log(right / S2[2])
    options = tf_kd.TfKdReg(temperature=10.0)
    made = tf_kd.reg_loss(first(STUDENT), first(LABELS), options).item()
    assert made == approx(0.05 * HARD1 + 0.95 * one / 3)
    made = tf_kd.reg_loss(STUDENT, LABELS, options).item()
    assert made == approx(0.05 * (HARD1 + HARD2) / 2 + 0.95 * (one + two) / 6)
    # ten classes at temperature 40, as a survey of the official code found
    teacher = tf_kd.handmade_teacher(torch.tensor([4]), torch.zeros(1, 10, dtype=torch.float64), 40.0, 0.99).exp()
    assert teacher[0, 4].item() == pytest.approx(0.1022, abs=5e-5)
    assert teacher[0, 0].item() == pytest.approx(0.0998, abs=5e-5)


def test_rkd() -> None:
    """Corners of triangles 3, 4, 5 and 6, 6, 6 * sqrt(2)."""
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
    far = 6 * math.sqrt(2)
    mean = (6 + 6 + far) / 3
    apart = [3 / 4 - 6 / mean, 4 / 4 - 6 / mean, 5 / 4 - far / mean]
    # each pair twice among nine entries, three of them zero; below one, smooth L1 is half the square
    distance = 2 * sum(0.5 * d * d for d in apart) / 9
    assert rkd.distance_term(student, teacher).item() == approx(distance)

    # at the right angle both have 0; at the second corner 3 / 5 and cos 45, at the third 4 / 5 and cos 45; a side with
    # itself has 1 in both
    cos45 = math.sqrt(0.5)
    angle = 2 * (0.5 * (3 / 5 - cos45) ** 2 + 0.5 * (4 / 5 - cos45) ** 2) / 27
    assert rkd.angle_term(student, teacher).item() == approx(angle)

    logits, labels = torch.zeros(3, 4, dtype=torch.float64), torch.tensor([0, 1, 3])
    made = rkd.loss(student, teacher, labels, logits).item()
    assert made == approx(log(4) + 25 * distance + 50 * angle)

    # of two samples all distances are the mean, and all angles are none
    pair = rkd.loss(student[:2], teacher[1:], labels[:2], logits[:2]).item()
    assert pair == approx(log(4))


def test_rkd_beyond_one_grows_straight() -> None:
    student = torch.tensor([[0.0], [0.0], [0.0], [12.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [5.0], [5.0], [5.0]], dtype=torch.float64)
    # both: three pairs of six at one length, so that it is twice the mean, and three at (nearly) none
    distance = 2 * (2 * (2 - 0.5) + 2 * (2 - 0.5)) / 16
    assert rkd.distance_term(student, teacher).item() == pytest.approx(distance, rel=1e-5)


def test_uskd() -> None:
    mean = (S1[0] ** 2 + S2[2] ** 2) / 2
    target = -((S1[0] ** 2 + 1 - mean) * log(S1[0]) + (S2[2] ** 2 + 1 - mean) * log(S2[2])) / 2
    assert uskd.target_term(STUDENT, LABELS).item() == approx(target)
    assert uskd.target_term(first(STUDENT), first(LABELS)).item() == approx(-log(S1[0]))  # a batch of one: weight 1

    # the weak head sees one number, x: its logits are (0, x, -x); x is 1 and 2
    x = (1.0, 2.0)
    w1 = [p / (1 + exp(1) + exp(-1)) for p in (1, exp(1), exp(-1))]
    w2 = [p / (1 + exp(2) + exp(-2)) for p in (1, exp(2), exp(-2))]
    weak1 = -(0.9 * log(w1[0]) + 0.1 / 3 * (log(w1[0]) + log(w1[1]) + log(w1[2])))
    weak2 = -(0.9 * log(w2[2]) + 0.1 / 3 * (log(w2[0]) + log(w2[1]) + log(w2[2])))

    # rank of the first, by w_i / (1 - w_0) + log s_i / (1 - log s_0): classes 0, 1, 2 score 0.1788, -0.9740, -2.5860;
    # so 1 and 2 have 1/2 and 1/3, that is 3/5 and 2/5. Of the second, by w_i / (1 - w_2) + log s_i / (1 - log s_2):
    # -0.4904, 0.6663, -0.5922; so 1 and 0 have 1/1 and 1/2, that is 2/3 and 1/3
    scores1 = [w / (1 - w1[0]) + log(s) / (1 - log(S1[0])) for w, s in zip(w1, S1, strict=True)]
    scores2 = [w / (1 - w2[2]) + log(s) / (1 - log(S2[2])) for w, s in zip(w2, S2, strict=True)]
    assert scores1[0] > scores1[1] > scores1[2] and scores2[1] > scores2[0] > scores2[2]
    rest1 = exp(0) / (exp(0) + exp(-1))  # of class 1 among 1 and 2
    rest2 = exp(0) / (exp(0) + exp(1))  # of class 0 among 0 and 1
    others1 = -3 / 5 * log(rest1) - 2 / 5 * log(1 - rest1)
    others2 = -1 / 3 * log(rest2) - 2 / 3 * log(1 - rest2)

    module = uskd.Uskd(target=0.2, non_target=0.3, weak=0.4).build(1, 3).double()
    with torch.no_grad():
        module.head.linear.weight.copy_(torch.tensor([[0.0], [1.0], [-1.0]]))
        module.head.linear.bias.zero_()
    features = torch.tensor([[x[0]], [x[1]]], dtype=torch.float64)
    both = (HARD1 + HARD2) / 2 + 0.2 * target + 0.3 * (others1 + others2) / 2 + 0.4 * (weak1 + weak2) / 2
    assert module(STUDENT, features, LABELS).item() == approx(both)
    one = HARD1 + 0.2 * HARD1 + 0.3 * others1 + 0.4 * weak1
    assert module(first(STUDENT), first(features), first(LABELS)).item() == approx(one)

    weak = module.head(features)
    assert uskd.zipf_labels(STUDENT, weak, LABELS).flatten().tolist() == approx_list([3 / 5, 2 / 5, 1 / 3, 2 / 3])
    assert uskd.non_target_term(STUDENT, weak, LABELS).item() == approx((others1 + others2) / 2)
    assert uskd.weak_term(weak, LABELS).item() == approx((weak1 + weak2) / 2)


def approx_list(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-12)


def test_uskd_ranks_otherwise_by_probabilities() -> None:
    student = torch.tensor([[8.0, 2.0, 1.4]], dtype=torch.float64)
    weak, labels = torch.tensor([[0.0, 0.0, 0.8]], dtype=torch.float64), torch.tensor([0])
    # the weak head puts 2 before 1, by 0.690 to 0.310. Log-probabilities, -5.979 to -6.576, turn that round;
    # probabilities, 0.646 to 0.354 of what the label leaves, do not
    assert uskd.zipf_labels(student, weak, labels).tolist() == [approx_list([3 / 5, 2 / 5])]
    # the label's own comes first, then 2, then 1
    assert uskd.zipf_labels(student, weak, labels, "probabilities").tolist() == [approx_list([2 / 5, 3 / 5])]


def test_uskd_ranks_where_the_weak_head_is_sure() -> None:
    """What it leaves of one is divided by itself and a millionth: by that alone where it leaves nothing."""
    student, labels = torch.tensor([[8.0, 2.0, 1.7]], dtype=torch.float64), torch.tensor([0])
    # 1e-6 and 9e-6 beside the label; divided by 11e-6 they are 0.09 and 0.82, more apart than the student's
    # log-probabilities, which put class 1 before 2 by 0.3
    weak = torch.tensor([[1 - 10e-6, 1e-6, 9e-6]], dtype=torch.float64).log()
    assert uskd.zipf_labels(student, weak, labels).tolist() == [approx_list([2 / 5, 3 / 5])]
    # 2e-9 and 1.8e-7, divided by a millionth, are 0.002 and 0.18, which is less than 0.3
    weak = torch.tensor([[1 - 1.82e-7, 2e-9, 1.8e-7]], dtype=torch.float64).log()
    assert uskd.zipf_labels(student, weak, labels).tolist() == [approx_list([3 / 5, 2 / 5])]


def _fill(layer: nn.Module, weight: float, bias: float) -> None:
    """A convolution that looks at the middle alone."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    with torch.no_grad():
        layer.weight.zero_()
        middle = layer.kernel_size[0] // 2
        layer.weight[:, :, middle, middle] = weight
        layer.bias.fill_(bias)


def test_mgd() -> None:
    """One position; the student's channels 1 and 3 aligned to 0.5 * (1 + 3) + 1 = 3, out of which 2 * 3 - 1 = 5."""
    module = mgd.Mgd(weight=0.1, dropped=0.0).build(2, 1).double()
    assert module.generate.align is not None
    _fill(module.generate.align, 0.5, 1.0)
    _fill(module.generate.generation[0], 2.0, -1.0)
    _fill(module.generate.generation[2], 1.0, 0.0)
    student = torch.tensor([[1.0, 3.0], [-1.0, -7.0]], dtype=torch.float64).reshape(2, 2, 1, 1)
    teacher = torch.tensor([2.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    generator = torch.Generator()
    one = module(first(student), first(teacher), first(STUDENT), first(LABELS), generator).item()
    assert one == approx(HARD1 + 0.1 * (5 - 2) ** 2)
    # the second: 0.5 * -8 + 1 = -3, 2 * -3 - 1 = -7, which the ReLU takes to 0
    both = module(student, teacher, STUDENT, LABELS, generator).item()
    assert both == approx((HARD1 + HARD2) / 2 + 0.1 * ((5 - 2) ** 2 + (0 - 1) ** 2) / 2)
    # masked, the first layer sees 0 and says -1: nothing is generated
    hidden = module.generate(student, torch.zeros(2, 1, 1, 1))
    assert mgd.reconstruction(hidden, teacher).item() == approx((2**2 + 1**2) / 2)

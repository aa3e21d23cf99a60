"""What holds of the losses of distillation whatever the tensors."""

import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mergenet.method.distill import dkd, kd, nkd, rkd, tf_kd, uskd

ANY = settings(deadline=None, derandomize=True, max_examples=60, phases=[Phase.explicit, Phase.generate, Phase.shrink])
seeds = st.integers(0, 2**31)
temperatures = st.floats(0.5, 20.0)
scales = st.sampled_from([0.1, 1.0, 10.0, 100.0])
sizes = st.tuples(st.integers(1, 6), st.integers(2, 7))


def normal(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(size: tuple[int, int], seed: int) -> Tensor:
    return torch.randint(size[1], size[:1], generator=torch.Generator().manual_seed(seed))


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


ZERO = torch.zeros((), dtype=torch.float64)


# --- logits ------------------------------------------------------------------------------------------------------


@ANY
@given(size=sizes, seed=seeds, temperature=temperatures, scale=scales)
def test_soft_targets_are_zero_at_the_teacher_and_nowhere_below(
    size: tuple[int, int], seed: int, temperature: float, scale: float
) -> None:
    student, teacher, labels = normal(size, seed, scale), normal(size, seed + 1, scale), classes(size, seed)
    for term in (
        lambda a, b: kd.soft_targets(a, b, temperature),
        lambda a, b: dkd.tckd(a, b, labels, temperature),
        lambda a, b: dkd.nckd(a, b, labels, temperature),
    ):
        assert term(teacher, teacher) == 0
        assert term(student, teacher) >= -1e-9
        moved = teacher.clone().requires_grad_()
        term(moved, teacher).backward()
        assert moved.grad is not None
        close(moved.grad, torch.zeros_like(teacher), 1e-7)


@ANY
@given(classes_=st.integers(2, 7), seed=seeds, temperature=temperatures, scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_kd_is_tckd_and_what_the_teacher_leaves_of_nckd(
    classes_: int, seed: int, temperature: float, scale: float
) -> None:
    """The paper's equation 7, for a sample: KD = TCKD + (1 - p) NCKD, p the teacher's probability of the label."""
    student, teacher = normal((1, classes_), seed, scale), normal((1, classes_), seed + 1, scale)
    labels = classes((1, classes_), seed)
    left = 1 - (teacher / temperature).softmax(1)[0, labels[0]]
    decoupled = dkd.tckd(student, teacher, labels, temperature) + left * dkd.nckd(student, teacher, labels, temperature)
    close(decoupled, kd.soft_targets(student, teacher, temperature))


@ANY
@given(classes_=st.integers(2, 7), seed=seeds)
def test_soft_cross_entropy_is_what_nkd_normalises(classes_: int, seed: int) -> None:
    """At temperature 1: -sum p log q = target term + (1 - p_y) (term of the others - log(1 - q_y))."""
    student, teacher = normal((1, classes_), seed, 2.0), normal((1, classes_), seed + 1, 2.0)
    labels = classes((1, classes_), seed)
    p, q = teacher.softmax(1)[0], student.softmax(1)[0]
    others = nkd.non_target_term(student, teacher, labels, 1.0)
    made = nkd.target_term(student, teacher, labels) + (1 - p[labels[0]]) * (others - (1 - q[labels[0]]).log())
    close(made, -(p * q.log()).sum())


@ANY
@given(size=sizes, seed=seeds, temperature=temperatures)
def test_the_others_of_nkd_are_least_at_the_teacher(size: tuple[int, int], seed: int, temperature: float) -> None:
    student, teacher, labels = normal(size, seed), normal(size, seed + 1), classes(size, seed)
    least = nkd.non_target_term(teacher, teacher, labels, temperature)
    assert nkd.non_target_term(student, teacher, labels, temperature) >= least - 1e-9


def _of_logits(student: Tensor, teacher: Tensor, labels: Tensor) -> list[Tensor]:
    return [
        kd.loss(student, teacher, labels),
        dkd.loss(student, teacher, labels, epoch=7),
        nkd.loss(student, teacher, labels),
        tf_kd.self_loss(student, teacher, labels),
        tf_kd.reg_loss(student, labels),
        uskd.target_term(student, labels),
        uskd.non_target_term(student, teacher, labels),
        uskd.non_target_term(student, teacher, labels, "probabilities"),
        uskd.weak_term(teacher, labels),
    ]


@ANY
@given(size=sizes, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_what_stands_on_all_logits_of_a_sample_changes_nothing(size: tuple[int, int], seed: int, scale: float) -> None:
    student, teacher, labels = normal(size, seed, scale), normal(size, seed + 1, scale), classes(size, seed)
    shift = normal((size[0], 1), seed + 2, 5.0)
    for one, other in zip(
        _of_logits(student, teacher, labels), _of_logits(student + shift, teacher - shift, labels), strict=True
    ):
        close(one, other)


@ANY
@given(size=sizes, seed=seeds)
def test_neither_the_order_of_classes_nor_that_of_samples_matters(size: tuple[int, int], seed: int) -> None:
    student, teacher, labels = normal(size, seed), normal(size, seed + 1), classes(size, seed)
    random = torch.Generator().manual_seed(seed)
    columns, rows = (torch.randperm(n, generator=random) for n in reversed(size))
    relabelled = columns.argsort()[labels]
    moved = _of_logits(student[rows][:, columns], teacher[rows][:, columns], relabelled[rows])
    for one, other in zip(_of_logits(student, teacher, labels), moved, strict=True):
        close(one, other)


@ANY
@given(size=sizes, seed=seeds, scale=scales)
def test_uskd_weighs_a_batch_by_one_in_the_mean(size: tuple[int, int], seed: int, scale: float) -> None:
    student, labels = normal(size, seed, scale), classes(size, seed)
    weights = uskd.target_weights(student, labels)
    close(weights.mean(), ZERO + 1)
    # who is surer of the label weighs more
    sure = student.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    assert torch.equal(sure.argsort(stable=True), (sure**2).argsort(stable=True))
    close(weights - weights.mean(), sure**2 - (sure**2).mean())


@ANY
@given(size=sizes, seed=seeds)
def test_soft_labels_of_uskd_are_a_distribution_by_rank(size: tuple[int, int], seed: int) -> None:
    student, weak, labels = normal(size, seed, 3.0), normal(size, seed + 1, 3.0), classes(size, seed)
    soft = uskd.zipf_labels(student, weak, labels)
    assert soft.shape == (size[0], size[1] - 1) and (soft > 0).all()
    close(soft.sum(1), torch.ones(size[0], dtype=torch.float64))
    inverse = (1 / soft).sort(dim=1).values
    # the ranks without the label's own: steps of one in units of the first rank, and at most one of two
    for row in inverse:
        ranks = [list(range(1, size[1] + 1)) for _ in range(size[1])]
        wanted = [[r for r in rank if r != out + 1] for out, rank in enumerate(ranks)]
        ratios = [torch.tensor([r * sum(1 / x for x in rank) for r in rank], dtype=torch.float64) for rank in wanted]
        assert any(torch.allclose(row, ratio) for ratio in ratios)


# --- relations ---------------------------------------------------------------------------------------------------


@ANY
@given(
    samples=st.integers(2, 6),
    dimensions=st.integers(2, 5),
    seed=seeds,
    scale=st.floats(0.01, 100.0),
    shift=st.floats(-3.0, 3.0),
)
def test_relations_mind_neither_scale_nor_rotation_nor_translation(
    samples: int, dimensions: int, seed: int, scale: float, shift: float
) -> None:
    student, teacher = normal((samples, dimensions), seed), normal((samples, 3), seed + 1)
    assume(torch.pdist(student).min() > 0.05)
    rotation = torch.linalg.qr(normal((dimensions, dimensions), seed + 2)).Q
    moved = scale * (student @ rotation + shift)
    for term in (rkd.distance_term, rkd.angle_term):
        close(term(moved, teacher), term(student, teacher), 1e-7)
        close(term(moved, student), ZERO, 1e-7)
        assert term(student, teacher) >= 0


@ANY
@given(samples=st.integers(3, 6), seed=seeds)
def test_relations_of_other_shapes_are_told_apart(samples: int, seed: int) -> None:
    student = normal((samples, 4), seed)
    stretched = student * torch.tensor([5.0, 1.0, 1.0, 0.2], dtype=torch.float64)
    assume(torch.pdist(student).min() > 0.05)
    assert rkd.distance_term(stretched, student) > 1e-6 and rkd.angle_term(stretched, student) > 1e-6


@ANY
@given(samples=st.integers(2, 6), seed=seeds)
def test_distances_have_a_mean_of_one_and_angles_are_cosines(samples: int, seed: int) -> None:
    points = normal((samples, 4), seed)
    apart = rkd.distances(points)
    close(apart.sum() / (samples * (samples - 1)), ZERO + 1)
    close(apart, apart.T)
    cosines = rkd.angles(points)
    for at in range(samples):
        towards = functional.normalize(points - points[at], dim=1)
        close(cosines[at], towards @ towards.T, 1e-7)

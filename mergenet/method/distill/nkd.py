"""Normalized knowledge distillation (Yang et al. 2023): the label by the teacher's confidence, the rest renormalised.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.method.criterion import Criterion, Given
from mergenet.method.distill.common import check_logits, checked_labels, in_full_precision, of_label, of_others


class Nkd(Criterion):
    """Normalized distillation; defaults of yzd-v/cls_KD for CIFAR-100 (`configs/distillers/cifar100`, ResNet34 to 18).

    Attributes:
        temperature: of the other classes' softmax; the label's term has none.
        gamma: weight of the other classes' term.
        cross_entropy: weight of the cross-entropy with the labels.
    """

    temperature: PositiveFloat = 3.0
    gamma: NonNegativeFloat = 3.5
    cross_entropy: NonNegativeFloat = 1.0

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `loss`."""
        return loss(given.student.logits, given.teachers[0].logits, given.known_labels, self)


DEFAULTS = Nkd()
VARIANTS: Mapping[str, Nkd] = {
    "imagenet": Nkd(temperature=1.0, gamma=1.5),
    # NKD.py in the history of MergeNet's repository: ImageNet's values, and no cross-entropy
    "mergenet": Nkd(temperature=1.0, gamma=1.5, cross_entropy=0.0),
}


@in_full_precision
def target_term(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, each sample weighed by the teacher's probability of its label: a scalar.

    From logits (N, C) at temperature 1. No gradient flows into the teacher.
    """
    check_logits(student, teacher)
    labels = checked_labels(labels, student)
    weights = of_label(teacher.detach().softmax(1), labels)
    return -(weights * of_label(functional.log_softmax(student, dim=1), labels)).mean()


@in_full_precision
def non_target_term(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 cross-entropy of the softmax over the other classes: a scalar from logits (N, C).

    A cross-entropy, as the official code has it, and no divergence: it is not zero where both sides are equal.
    """
    check_logits(student, teacher)
    labels = checked_labels(labels, student)
    of_student = functional.log_softmax(of_others(student / temperature, labels), dim=1)
    of_teacher = of_others(teacher.detach() / temperature, labels).softmax(1)
    return -(temperature**2) * (of_teacher * of_student).sum(1).mean()


@in_full_precision
def loss(student: Tensor, teacher: Tensor, labels: Tensor, options: Nkd = DEFAULTS) -> Tensor:
    """Cross-entropy, the label's term and that of the others, weighed: a scalar.

    Args:
        student: logits (N, C).
        teacher: logits (N, C).
        labels: class numbers (N,).
        options: weights and temperature.

    Raises:
        InputError: shapes that do not agree, labels that are no classes.
    """
    check_logits(student, teacher)
    hard = functional.cross_entropy(student, checked_labels(labels, student))
    others = non_target_term(student, teacher, labels, options.temperature)
    return options.cross_entropy * hard + target_term(student, teacher, labels) + options.gamma * others

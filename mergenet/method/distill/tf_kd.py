"""Teacher-free distillation (Yuan et al. 2020): from one's own trained copy, or from a teacher made by hand.

Both means are over all N * C entries, as in the authors' `my_loss_function.py`.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.method.criterion import Criterion, Given
from mergenet.method.distill.common import check_logits, checked_labels, divergence, in_full_precision
from mergenet.method.distill.kd import soft_targets

Alpha = Annotated[float, Field(ge=0.0, le=1.0)]


class TfKdSelf(Criterion):
    """From one's own trained copy; the authors' values for MobileNetV2 (`mobilenet_distill/mobilenet_self_teacher`).

    Attributes:
        temperature: what both sides' logits are divided by (ResNet50: 6).
        alpha: weight of the soft targets; the cross-entropy has 1 - alpha.
        multiplier: of the soft targets once more.
    """

    temperature: PositiveFloat = 20.0
    alpha: Alpha = 0.95
    multiplier: NonNegativeFloat = 1.0

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `self_loss`."""
        return self_loss(given.student.logits, given.teachers[0].logits, given.known_labels, self)


class TfKdReg(Criterion):
    """From a teacher made by hand; the authors' values for MobileNetV2 (`base_experiments/base_mobilenetv2`).

    Attributes:
        temperature: what the teacher's probabilities, not logits, are divided by before a softmax.
        alpha: weight of the teacher; the cross-entropy has 1 - alpha.
        multiplier: of the teacher once more.
        correct: the probability that the teacher gives the label.
    """

    taught: ClassVar[bool] = False

    temperature: PositiveFloat = 40.0
    alpha: Alpha = 0.95
    multiplier: NonNegativeFloat = 1.0
    correct: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `reg_loss`."""
        return reg_loss(given.student.logits, given.known_labels, self)


SELF_DEFAULTS = TfKdSelf()
REG_DEFAULTS = TfKdReg()
SELF_VARIANTS: Mapping[str, TfKdSelf] = {
    "resnet50": TfKdSelf(temperature=6.0),  # the authors' value for it
}


@in_full_precision
def handmade_teacher(labels: Tensor, logits: Tensor, temperature: float, correct: float) -> Tensor:
    """Log-probabilities (N, C) of a teacher who is always right, for logits (N, C).

    softmax(q / T) with q the probabilities `correct` at the label and (1 - correct) / (C - 1) elsewhere: a softmax of
    probabilities, as in the official code. At T = 40 and 10 classes it is 0.1022 at the label and 0.0998 elsewhere.
    """
    labels = checked_labels(labels, logits)
    probabilities = torch.full_like(logits, (1.0 - correct) / (logits.shape[1] - 1))
    probabilities = probabilities.scatter(1, labels.unsqueeze(1), correct)
    return functional.log_softmax(probabilities / temperature, dim=1)


@in_full_precision
def regularization(student: Tensor, labels: Tensor, temperature: float, correct: float) -> Tensor:
    """KL(teacher || student) from the `handmade_teacher`, a mean over all entries: a scalar from logits (N, C).

    The student has no temperature, and there is no T^2.
    """
    check_logits(student)
    teacher = handmade_teacher(labels, student.detach(), temperature, correct)
    return divergence(functional.log_softmax(student, dim=1), teacher).mean()


@in_full_precision
def self_loss(student: Tensor, teacher: Tensor, labels: Tensor, options: TfKdSelf = SELF_DEFAULTS) -> Tensor:
    """Cross-entropy and soft targets of one's own trained copy, weighed: a scalar.

    Args:
        student: logits (N, C).
        teacher: logits (N, C) of the copy; no gradient flows into them.
        labels: class numbers (N,).
        options: weights and temperature.

    Raises:
        InputError: shapes that do not agree, labels that are no classes.
    """
    check_logits(student, teacher)
    hard = functional.cross_entropy(student, checked_labels(labels, student))
    soft = soft_targets(student, teacher, options.temperature, over="entries")
    return (1.0 - options.alpha) * hard + options.alpha * options.multiplier * soft


@in_full_precision
def reg_loss(student: Tensor, labels: Tensor, options: TfKdReg = REG_DEFAULTS) -> Tensor:
    """Cross-entropy and the divergence from a teacher made by hand, weighed: a scalar.

    Args:
        student: logits (N, C).
        labels: class numbers (N,).
        options: weights and what the teacher is like.

    Raises:
        InputError: logits that are not (N, C), labels that are no classes.
    """
    check_logits(student)
    hard = functional.cross_entropy(student, checked_labels(labels, student))
    soft = regularization(student, labels, options.temperature, options.correct)
    return (1.0 - options.alpha) * hard + options.alpha * options.multiplier * soft

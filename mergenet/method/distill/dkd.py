"""Decoupled knowledge distillation (Zhao et al. 2022): the label against the rest, and the rest among themselves.

Per sample, KD is TCKD + (1 - p) NCKD with p the teacher's probability of the label; the method weighs both freely.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.method.criterion import Criterion, Given
from mergenet.method.distill.common import (
    check_logits,
    checked_labels,
    divergence,
    in_full_precision,
    of_label,
    of_others,
)


class Dkd(Criterion):
    """Decoupled distillation; defaults of mdistiller (`engine/cfg.py`, `configs/cifar100/dkd/res50_mv2.yaml`).

    Attributes:
        temperature: what both sides' logits are divided by.
        alpha: weight of the term of the target class.
        beta: weight of the term of the other classes.
        warm_up: epochs over which both grow to their weight; 0 has them at once.
        cross_entropy: weight of the cross-entropy with the labels.
    """

    warms_up: ClassVar[bool] = True

    temperature: PositiveFloat = 4.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 8.0
    warm_up: NonNegativeFloat = 20.0
    cross_entropy: NonNegativeFloat = 1.0

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `loss`."""
        return loss(given.student.logits, given.teachers[0].logits, given.known_labels, given.epoch, self)


DEFAULTS = Dkd()
VARIANTS: Mapping[str, Dkd] = {
    "cls_kd": Dkd(warm_up=0.0),  # configs/distillers/cifar100 of yzd-v/cls_KD
}


def warm_up(epoch: float, epochs: float = DEFAULTS.warm_up) -> float:
    """What both terms are multiplied by in `epoch`, which mdistiller counts from 1: epoch / epochs, at most 1."""
    if epoch < 0:
        raise InputError(f"epoch {epoch}: must be 0 or above")
    return min(epoch / epochs, 1.0) if epochs > 0 else 1.0


@in_full_precision
def tckd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the label against all other classes together: a scalar from logits (N, C).

    The rest's probability is summed from logarithms. The official code takes the logarithm of the sum, which is minus
    infinity once the student is sure, and so NaN.
    """
    check_logits(student, teacher)
    labels = checked_labels(labels, student)
    of_student, of_teacher = (_binary(logits / temperature, labels) for logits in (student, teacher.detach()))
    return temperature**2 * divergence(of_student, of_teacher).sum(1).mean()


@in_full_precision
def nckd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softmax over the other classes: a scalar from logits (N, C).

    The label is left out. The official code lowers it by 1000 instead, the same unless it leads by hundreds of T.
    """
    check_logits(student, teacher)
    labels = checked_labels(labels, student)
    of_student, of_teacher = (
        functional.log_softmax(of_others(logits / temperature, labels), dim=1) for logits in (student, teacher.detach())
    )
    return temperature**2 * divergence(of_student, of_teacher).sum(1).mean()


@in_full_precision
def loss(student: Tensor, teacher: Tensor, labels: Tensor, epoch: float, options: Dkd = DEFAULTS) -> Tensor:
    """Cross-entropy and both terms, weighed: a scalar.

    Args:
        student: logits (N, C).
        teacher: logits (N, C); no gradient flows into them.
        labels: class numbers (N,).
        epoch: of the training, counted from 1, for the warm-up.
        options: weights and temperature.

    Raises:
        InputError: shapes that do not agree, labels that are no classes, an epoch below 0.
    """
    check_logits(student, teacher)
    hard = functional.cross_entropy(student, checked_labels(labels, student))
    target = tckd(student, teacher, labels, options.temperature)
    others = nckd(student, teacher, labels, options.temperature)
    factor = warm_up(epoch, options.warm_up)
    return options.cross_entropy * hard + factor * (options.alpha * target + options.beta * others)


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (N, 2) of the label and of all the rest."""
    log_probabilities = functional.log_softmax(logits, dim=1)
    rest = of_others(log_probabilities, labels).logsumexp(1)
    return torch.stack([of_label(log_probabilities, labels), rest], dim=1)

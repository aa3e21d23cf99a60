"""Knowledge distillation (Hinton et al. 2015): the teacher's softened probabilities.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.method.criterion import Criterion, Given
from mergenet.method.distill.common import check_logits, checked_labels, divergence, in_full_precision

Over = Literal["samples", "entries"]


class Kd(Criterion):
    """Knowledge distillation; defaults of mdistiller (`engine/cfg.py`, `configs/cifar100/kd.yaml`).

    Attributes:
        temperature: what both sides' logits are divided by.
        cross_entropy: weight of the cross-entropy with the labels.
        soft_targets: weight of the divergence from the teacher.
        over: what the divergence is a mean over: `samples`, its classes summed, or all `entries` (N * C), as the
            repository of teacher-free distillation has it, whose weight is thereby a C-th of what it says.
    """

    temperature: PositiveFloat = 4.0
    cross_entropy: NonNegativeFloat = 0.1
    soft_targets: NonNegativeFloat = 0.9
    over: Over = "samples"

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `loss`."""
        return loss(given.student.logits, given.teachers[0].logits, given.known_labels, self)


DEFAULTS = Kd()
VARIANTS: Mapping[str, Kd] = {
    # my_loss_function.py with experiments/kd_experiments/mobilenet_distill of yuanli2333's repository
    "teacher_free": Kd(temperature=20.0, cross_entropy=0.05, soft_targets=0.95, over="entries"),
}


@in_full_precision
def soft_targets(student: Tensor, teacher: Tensor, temperature: float, over: Over = "samples") -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T): a scalar, in nats, from logits (N, C).

    T^2 keeps its gradient's size whatever the temperature. None flows into the teacher.
    """
    check_logits(student, teacher)
    of_student = functional.log_softmax(student / temperature, dim=1)
    of_teacher = functional.log_softmax(teacher.detach() / temperature, dim=1)
    shares = divergence(of_student, of_teacher)
    return temperature**2 * (shares.sum(1).mean() if over == "samples" else shares.mean())


@in_full_precision
def loss(student: Tensor, teacher: Tensor, labels: Tensor, options: Kd = DEFAULTS) -> Tensor:
    """Cross-entropy and soft targets, weighed: a scalar.

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
    soft = soft_targets(student, teacher, options.temperature, options.over)
    return options.cross_entropy * hard + options.soft_targets * soft

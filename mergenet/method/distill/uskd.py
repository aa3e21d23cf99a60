"""Universal self-knowledge distillation (Yang et al. 2023): soft labels from the student itself and a weak head.

Shape legend: N samples, C classes, D channels of a feature of an earlier stage.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.method.criterion import Criterion, Given, Outputs
from mergenet.method.distill.common import (
    check_dtype,
    check_logits,
    checked_labels,
    in_full_precision,
    of_label,
    of_others,
    shape_of,
)

RankedBy = Literal["log_probabilities", "probabilities"]
ENOUGH = 1e-6  # added to what the rank divides by, in the official code
WEAK_LABEL = 0.9  # the share of a weak label that its class has; the rest is uniform


class Uskd(Criterion):
    """Universal self-distillation; defaults of yzd-v/cls_KD for CIFAR-100 (`configs/distillers/cifar100`, ResNet18).

    Attributes:
        target: weight of the label's term, alpha.
        non_target: weight of the other classes' term, beta.
        weak: weight of the weak head's own, mu.
        ranked_by: what of the student ranks the other classes beside the weak head's probabilities: its
            `log_probabilities` (the official code since July 2023), or its `probabilities` (before).
        cross_entropy: weight of the cross-entropy with the labels.
    """

    taught: ClassVar[bool] = False

    target: NonNegativeFloat = 0.1
    non_target: NonNegativeFloat = 0.1
    weak: NonNegativeFloat = 0.1
    ranked_by: RankedBy = "log_probabilities"
    cross_entropy: NonNegativeFloat = 1.0

    def build(self, channels: int, classes: int) -> "UskdLoss":
        """The loss with its weak head, for features of so many channels."""
        return UskdLoss(channels, classes, self)

    @property
    def layer(self) -> str | None:
        """The weak head's (the official code: the last stage but one)."""
        return "earlier"

    def layers_for(self, student: Outputs, teachers: Sequence[Outputs]) -> nn.Module | None:
        """The weak head, within the loss."""
        return self.build(student.maps.shape[1], student.logits.shape[1])

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `UskdLoss`."""
        assert layers is not None
        return layers(given.student.logits, given.student.maps, given.known_labels)


VARIANTS: Mapping[str, Uskd] = {
    "imagenet": Uskd(target=1.0, non_target=0.1, weak=0.005),
    "probabilities": Uskd(ranked_by="probabilities"),
}


class WeakHead(nn.Module):
    """A linear classifier on an earlier stage: features (N, D) or (N, D, H, W), averaged over positions, to (N, C)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    @in_full_precision
    def forward(self, features: Tensor) -> Tensor:
        """Weak logits (N, C)."""
        if features.ndim not in (2, 4) or features.shape[1] != self.linear.in_features:
            wanted = f"(batch, {self.linear.in_features}) or (batch, {self.linear.in_features}, height, width)"
            raise InputError(f"features are {shape_of(features)}; the weak head takes {wanted}")
        check_dtype(self, features)
        return self.linear(features.mean((2, 3)) if features.ndim == 4 else features)


@in_full_precision
def target_weights(student: Tensor, labels: Tensor) -> Tensor:
    """p^2 + 1 - mean(p^2) with p the student's probability of the label: (N,), without gradient.

    The mean is over the batch, so a sample's weight depends on its company, as in the official code.
    """
    check_logits(student)
    squares = of_label(student.detach().softmax(1), checked_labels(labels, student)).square()
    return squares + 1.0 - squares.mean()


@in_full_precision
def target_term(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, weighed by `target_weights`: a scalar from logits (N, C)."""
    weights = target_weights(student, labels)
    labels = checked_labels(labels, student)
    return -(weights * of_label(functional.log_softmax(student, dim=1), labels)).mean()


@in_full_precision
def zipf_labels(student: Tensor, weak: Tensor, labels: Tensor, ranked_by: RankedBy = "log_probabilities") -> Tensor:
    """Soft labels of the other classes, by Zipf's law of their rank: (N, C - 1), without gradient.

    The rank is that of w_i / (1 - w_y) + s_i / (1 - s_y), with w the weak head's probabilities, s what `ranked_by` says
    and y the label. The label is ranked too; its 1 / rank is dropped and the others' brought to a sum of one.

    Args:
        student: logits (N, C).
        weak: logits (N, C) of the weak head.
        labels: class numbers (N,).
        ranked_by: what of the student ranks. Its official log-probabilities are below 0, and 1 - s_y above 1.
    """
    check_logits(student, weak)
    labels = checked_labels(labels, student)
    log_probabilities = functional.log_softmax(student.detach(), dim=1)
    own = log_probabilities if ranked_by == "log_probabilities" else log_probabilities.exp()
    score = _of_the_rest(weak.detach().softmax(1), labels) + _of_the_rest(own, labels)
    rank = 1 + score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    shares = of_others(1 / rank.to(student.dtype), labels)
    return shares / shares.sum(1, keepdim=True)


def _of_the_rest(values: Tensor, labels: Tensor) -> Tensor:
    """`values` (N, C) in units of what the label's own leaves of one."""
    return values / (1 - of_label(values, labels) + ENOUGH).unsqueeze(1)


@in_full_precision
def non_target_term(student: Tensor, weak: Tensor, labels: Tensor, ranked_by: RankedBy = "log_probabilities") -> Tensor:
    """Cross-entropy of the softmax over the other classes with `zipf_labels`: a scalar from logits (N, C), twice."""
    soft = zipf_labels(student, weak, labels, ranked_by)
    labels = checked_labels(labels, student)
    return -(soft * functional.log_softmax(of_others(student, labels), dim=1)).sum(1).mean()


@in_full_precision
def weak_term(weak: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the weak head with 0.9 of the label and 0.1 of the uniform: a scalar from logits (N, C)."""
    check_logits(weak)
    log_probabilities = functional.log_softmax(weak, dim=1)
    of_labels = of_label(log_probabilities, checked_labels(labels, weak))
    return -(WEAK_LABEL * of_labels + (1.0 - WEAK_LABEL) * log_probabilities.mean(1)).mean()


class UskdLoss(nn.Module):
    """Cross-entropy and the three terms, weighed, with the weak head that trains along.

    Its gradient reaches the features, too: the earlier stage learns to classify.
    """

    def __init__(self, channels: int, classes: int, options: Uskd) -> None:
        super().__init__()
        self.options = options
        self.head = WeakHead(channels, classes)

    @in_full_precision
    def forward(self, student: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """A scalar.

        Args:
            student: logits (N, C).
            features: of an earlier stage (the official code: the last but one), (N, D) or (N, D, H, W).
            labels: class numbers (N,).

        Raises:
            InputError: shapes that do not agree, labels that are no classes.
        """
        check_logits(student)
        options = self.options
        weak = self.head(features)
        hard = functional.cross_entropy(student, checked_labels(labels, student))
        others = non_target_term(student, weak, labels, options.ranked_by)
        soft = options.target * target_term(student, labels) + options.non_target * others
        return options.cross_entropy * hard + soft + options.weak * weak_term(weak, labels)

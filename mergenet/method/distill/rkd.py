"""Relational knowledge distillation (Park et al. 2019): distances and angles between the samples of a batch.

Shape legend: N samples, D dimensions. Student and teacher may differ in D.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.method.criterion import Criterion, Given
from mergenet.method.distill.common import check_logits, checked_labels, in_full_precision, shape_of

SQUARES = 1e-12  # the least squared distance of two samples, in both official codes


class Rkd(Criterion):
    """Relational distillation; defaults for classification of RepDistiller and mdistiller (`engine/cfg.py`).

    Attributes:
        on: what is compared: pooled `features` before the classifier, or the `logits` themselves.
        distance: weight of the distances between pairs.
        angle: weight of the angles in triplets.
        cross_entropy: weight of the cross-entropy with the labels.
    """

    on: Literal["features", "logits"] = "features"
    distance: NonNegativeFloat = 25.0
    angle: NonNegativeFloat = 50.0
    cross_entropy: NonNegativeFloat = 1.0

    @property
    def layer(self) -> str | None:
        """What goes into the classifier, unless logits are compared."""
        return "pooled" if self.on == "features" else None

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `loss`."""
        if self.on == "logits":
            return loss(given.student.logits, given.teachers[0].logits, given.known_labels, options=self)
        return loss(given.student.maps, given.teachers[0].maps, given.known_labels, given.student.logits, self)


DEFAULTS = Rkd()
VARIANTS: Mapping[str, Rkd] = {
    # RKD.py in the history of MergeNet's repository: the ratio that its authors gave for embeddings, on logits
    "mergenet": Rkd(on="logits", distance=1.0, angle=2.0),
}


@in_full_precision
def distances(samples: Tensor) -> Tensor:
    """Euclidean distances (N, N) of samples (N, D), in units of the mean over pairs of two; zeros on the diagonal.

    From the matrix of products and bounded from below, as the official codes have it.
    """
    squares = samples.square().sum(1)
    apart = (squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * samples @ samples.T).clamp(min=SQUARES).sqrt()
    apart = apart.masked_fill(torch.eye(len(samples), dtype=torch.bool, device=samples.device), 0.0)
    return apart / (apart.sum() / (len(samples) * (len(samples) - 1)))


@in_full_precision
def angles(samples: Tensor) -> Tensor:
    """Cosines (N, N, N) at sample i between those from it to j and to k, of samples (N, D); zero where one is i."""
    towards = functional.normalize(samples.unsqueeze(0) - samples.unsqueeze(1), dim=2)
    return towards @ towards.transpose(1, 2)


@in_full_precision
def distance_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between both sides' `distances`, a mean over all N^2, the diagonal counted: a scalar.

    Args:
        student: (N, ...), flattened; its own mean distance is trained, too.
        teacher: (N, ...), flattened; no gradient flows into it.
    """
    student, teacher = _flat(student, teacher)
    return functional.smooth_l1_loss(distances(student), distances(teacher.detach()))


@in_full_precision
def angle_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between both sides' `angles`, a mean over all N^3: a scalar from (N, ...) and (N, ...), flattened."""
    student, teacher = _flat(student, teacher)
    return functional.smooth_l1_loss(angles(student), angles(teacher.detach()))


@in_full_precision
def loss(
    student: Tensor, teacher: Tensor, labels: Tensor, logits: Tensor | None = None, options: Rkd = DEFAULTS
) -> Tensor:
    """Cross-entropy, distances and angles, weighed: a scalar.

    Args:
        student: features (N, ...) before the classifier; with `on: logits` the logits (N, C).
        teacher: the same of the teacher, (N, ...).
        labels: class numbers (N,).
        logits: the student's (N, C); left out with `on: logits`.
        options: weights, and what is compared.

    Raises:
        InputError: shapes that do not agree, labels that are no classes, logits given or left out wrongly.
    """
    if (logits is None) != (options.on == "logits"):
        raise InputError(f"on '{options.on}': the student's logits must be given beside features, and only there")
    logits = student if logits is None else logits
    check_logits(logits)
    hard = functional.cross_entropy(logits, checked_labels(labels, logits))
    relations = options.distance * distance_term(student, teacher) + options.angle * angle_term(student, teacher)
    return options.cross_entropy * hard + relations


def _flat(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher) or len(student) < 2:
        raise InputError(
            f"features are {shape_of(student)} and {shape_of(teacher)}; both must be of the same samples, two or more"
        )
    return student.flatten(1), teacher.flatten(1)

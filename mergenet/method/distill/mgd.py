"""Masked generative distillation (Yang et al. 2022): the teacher's features out of the student's with channels missing.

Shape legend: N samples, S and T channels of student and teacher, H x W positions.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Generator, Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.method.criterion import Criterion, Given, Outputs
from mergenet.method.distill.common import (
    check_dtype,
    check_logits,
    checked_labels,
    in_full_precision,
    resized,
    shape_of,
)


class Mgd(Criterion):
    """Masked generation; defaults of yzd-v/cls_KD for CIFAR-100 (`configs/distillers/cifar100`, ResNet34 to 18).

    Attributes:
        weight: of the squared error, which is a sum over channels and positions.
        dropped: the probability that a channel of the student is masked.
        resize: `bilinear` brings the student's features to the teacher's height and width; `none` refuses others, as
            the official code does.
        cross_entropy: weight of the cross-entropy with the labels.
    """

    weight: NonNegativeFloat = 1.2e-3
    dropped: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    resize: Literal["none", "bilinear"] = "none"
    cross_entropy: NonNegativeFloat = 1.0

    def build(self, student: int, teacher: int) -> "MgdLoss":
        """The loss with its layers, for features of so many channels."""
        return MgdLoss(student, teacher, self)

    @property
    def layer(self) -> str | None:
        """The last map."""
        return "last"

    def layers_for(self, student: Outputs, teachers: Sequence[Outputs]) -> nn.Module | None:
        """Alignment and generation, within the loss."""
        return self.build(student.maps.shape[1], teachers[0].maps.shape[1])

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """See `MgdLoss`; the mask is drawn from torch's own random numbers."""
        assert layers is not None
        return layers(given.student.maps, given.teachers[0].maps, given.student.logits, given.known_labels)


VARIANTS: Mapping[str, Mgd] = {
    "imagenet": Mgd(weight=7e-5),
}


def draw_mask(
    samples: int, channels: int, dropped: float, generator: Generator | None, device: torch.device | None = None
) -> Tensor:
    """Zeros with probability `dropped` and ones, (N, T, 1, 1) in float32, on the generator's device.

    Without a generator they are of torch's own random numbers of `device`.
    """
    where = device if generator is None else generator.device
    return (torch.rand((samples, channels, 1, 1), generator=generator, device=where) >= dropped).float()


@in_full_precision
def reconstruction(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between (N, T, H, W) and the teacher's features, summed, over N: a scalar.

    A sum and no mean, as in the official code: its weight falls with the size of the features.
    """
    if generated.shape != teacher.shape:
        raise InputError(f"generated are {shape_of(generated)}, the teacher's features {shape_of(teacher)}")
    return (generated - teacher.detach()).square().sum() / len(teacher)


class MaskedGeneration(nn.Module):
    """The teacher's features (N, T, H, W) out of the student's (N, S, H, W), masked.

    Aligned by a convolution 1 x 1 where S is not T; after the mask two of 3 x 3 with a ReLU between them.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.channels = (student, teacher)
        self.align = nn.Conv2d(student, teacher, 1) if student != teacher else None
        self.generation = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    @in_full_precision
    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, T, H, W) from features (N, S, H, W) and a mask that multiplies (N, T, H, W), such as (N, T, 1, 1)."""
        check_dtype(self, features)
        aligned = features if self.align is None else self.align(features)
        return self.generation(aligned * mask.to(aligned))


class MgdLoss(nn.Module):
    """Cross-entropy and the error of masked generation, weighed, with the layers that train along."""

    def __init__(self, student: int, teacher: int, options: Mgd) -> None:
        super().__init__()
        self.options = options
        self.generate = MaskedGeneration(student, teacher)

    @in_full_precision
    def forward(
        self, student: Tensor, teacher: Tensor, logits: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """A scalar.

        Args:
            student: features (N, S, H, W) of the last stage.
            teacher: features (N, T, H, W); no gradient flows into them.
            logits: the student's (N, C).
            labels: class numbers (N,).
            generator: draws the mask; torch's own random numbers, if there is none.

        Raises:
            InputError: shapes that do not agree, labels that are no classes.
        """
        check_logits(logits)
        student = self._fitted(student, teacher)
        hard = functional.cross_entropy(logits, checked_labels(labels, logits))
        mask = draw_mask(len(teacher), teacher.shape[1], self.options.dropped, generator, teacher.device)
        error = reconstruction(self.generate(student, mask), teacher)
        return self.options.cross_entropy * hard + self.options.weight * error

    def _fitted(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The student's features at the teacher's height and width."""
        shapes = (student.ndim, teacher.ndim, *student.shape[1:2], *teacher.shape[1:2])
        if shapes != (4, 4, *self.generate.channels) or len(student) != len(teacher):
            wanted = " and ".join(f"(batch, {channels}, height, width)" for channels in self.generate.channels)
            raise InputError(f"features are {shape_of(student)} and {shape_of(teacher)}; they must be {wanted}")
        if student.shape[2:] != teacher.shape[2:] and self.options.resize == "none":
            raise InputError(
                f"features are {shape_of(student)} and {shape_of(teacher)}; height and width must be equal, "
                "or resize 'bilinear'"
            )
        return resized(student, teacher)

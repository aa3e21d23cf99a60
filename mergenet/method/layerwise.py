"""The layers of layer-wise amalgamation: what several teachers know at a layer into the width of the student's.

Shape legend: N samples, D channels of the student's features, D_i of teacher i's, H x W positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError
from mergenet.method.common_features import check_features
from mergenet.method.distill.common import check_dtype, in_full_precision, shape_of


class Amalgamated(NamedTuple):
    """What the layers make of features.

    Attributes:
        student: the student's features, adapted: (N, D, H, W).
        encoded: one encoding of all teachers' features, (N, D, H, W).
        decoded: each teacher's features (N, D_i, H, W), decoded from it.
    """

    student: Tensor
    encoded: Tensor
    decoded: list[Tensor]


class LayerwiseBlock(nn.Module):
    """All teachers' features of one layer encoded together, decoded again, and the student's adapted to the encoding.

    Three convolutions 1 x 1 with bias and nothing between them, as in KamalEngine's `AmalBlock`
    (`kamal/amalgamation/layerwise_amalgamation.py`). Parameters stand in its order, so that its weights can be copied
    one after the other.
    """

    def __init__(self, student: int, teachers: Sequence[int]) -> None:
        super().__init__()
        if not teachers:
            raise InputError("teachers: there must be one or more")
        self.channels = (student, *teachers)
        self.encoder = nn.Conv2d(sum(teachers), student, 1)
        self.adapter = nn.Conv2d(student, student, 1)
        self.decoder = nn.Conv2d(student, sum(teachers), 1)

    @in_full_precision
    def forward(self, student: Tensor, teachers: Sequence[Tensor]) -> Amalgamated:
        """The student's features adapted, the teachers' encoded and decoded; no gradient flows into the teachers'.

        Args:
            student: features (N, D, H, W).
            teachers: features (N, D_i, H, W), of the same samples and positions.

        Raises:
            InputError: features of other shapes, or of another precision than the layers.
        """
        check_features([student, *teachers], self.channels, "maps")
        check_dtype(self, student)
        encoded = self.encoder(torch.cat([features.detach() for features in teachers], dim=1))
        decoded = self.decoder(encoded).split(self.channels[1:], dim=1)
        return Amalgamated(self.adapter(student), encoded, list(decoded))


@in_full_precision
def alignment(student: Tensor, encoded: Tensor) -> Tensor:
    """Mean squared error of the student's adapted features (N, D, ...) to the teachers' encoding: a scalar.

    No gradient flows into the encoding: the encoder learns from the reconstruction alone.
    """
    if student.shape != encoded.shape or not student.numel():
        raise InputError(
            f"the student's features are {shape_of(student)}, the encoding {shape_of(encoded)}; they must agree"
        )
    return functional.mse_loss(student, encoded.detach())

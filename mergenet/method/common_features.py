"""The layers of common feature learning: features of different networks into one space, and back.

Shape legend: N samples, D channels or dimensions of features, K of the common space, H x W positions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from mergenet.config import InputError
from mergenet.method.distill.common import check_dtype, in_full_precision, shape_of

Form = Literal["maps", "vectors"]


class Common(NamedTuple):
    """What the layers make of features.

    Attributes:
        student: common features (N, K, ...) of the student.
        teachers: those of each teacher, (N, K, ...).
        decoded: each teacher's features (N, D_i, ...), decoded from its common ones.
    """

    student: Tensor
    teachers: list[Tensor]
    decoded: list[Tensor]


class Residual(nn.Module):
    """relu(x' + conv(relu(conv(x)))), 3 x 3 without bias or norm; x' is x, or x by 1 x 1 where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, outputs, H, W) from (N, inputs, H, W)."""
        return (self.shortcut(maps) + self.second(self.first(maps).relu())).relu()


class CommonFeatures(nn.Module):
    """Student and teachers into a common space: layers of their own to align, one extractor that all share.

    For `maps` as in VainF/CommonFeatureLearning (`models/cfl.py`), for `vectors` as KamalEngine's block for linear
    layers. Parameters stand in the official order, so that its weights can be copied one after the other.
    """

    def __init__(self, student: int, teachers: Sequence[int], width: int, form: Form) -> None:
        super().__init__()
        if not teachers:
            raise InputError("teachers: there must be one or more")
        self.channels = (student, *teachers)
        self.form = form
        self.align_teachers = nn.ModuleList(_align(channels, width, form) for channels in teachers)
        self.align_student = _align(student, width, form)
        self.extractor = _extractor(width, form)
        self.decoders = nn.ModuleList(_decoder(width, channels, form) for channels in teachers)

    @in_full_precision
    def forward(self, student: Tensor, teachers: Sequence[Tensor]) -> Common:
        """Common features of all, and the teachers' own as decoded from them.

        Args:
            student: features (N, D, H, W), or (N, D).
            teachers: features (N, D_i, H, W), or (N, D_i), of the same samples and positions.
        """
        self._check(student, *teachers)
        of_student = self.extractor(self.align_student(student))
        aligned = [align(features.detach()) for align, features in zip(self.align_teachers, teachers, strict=True)]
        of_teachers = [self.extractor(features) for features in aligned]
        decoded = [decode(features) for decode, features in zip(self.decoders, of_teachers, strict=True)]
        return Common(of_student, of_teachers, decoded)

    def _check(self, *features: Tensor) -> None:
        rest = features[0].shape[2:]
        wanted = [(*features[0].shape[:1], channels, *rest) for channels in self.channels]
        right = features[0].ndim == (4 if self.form == "maps" else 2)
        if not right or [tuple(one.shape) for one in features] != wanted:
            shapes = ", ".join(map(shape_of, features))
            tail = ", height, width" if self.form == "maps" else ""
            sizes = ", ".join(f"(batch, {channels}{tail})" for channels in self.channels)
            raise InputError(f"features of student and teachers are {shapes}; they must agree as {sizes}")
        check_dtype(self, features[0])


def _align(channels: int, width: int, form: Form) -> nn.Module:
    layer = nn.Conv2d(channels, 2 * width, 1, bias=False) if form == "maps" else nn.Linear(channels, width)
    return nn.Sequential(layer, nn.ReLU())


def _extractor(width: int, form: Form) -> nn.Module:
    if form == "maps":
        return nn.Sequential(Residual(2 * width, width), Residual(width, width), Residual(width, width))
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _decoder(width: int, channels: int, form: Form) -> nn.Module:
    if form == "maps":
        first = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False))
    return nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, channels))

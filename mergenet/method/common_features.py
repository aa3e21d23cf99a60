"""The layers of common feature learning: features of different networks into one space, and back.

Shape legend: N samples, D channels or dimensions of features, K of the common space, H x W positions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from mergenet.config import InputError
from mergenet.method.distill.common import check_dtype, in_full_precision, shape_of

Form = Literal["maps", "vectors"]
_TAILS = {"maps": ", height, width", "vectors": ""}


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


def channels_of(features: Sequence[Tensor], form: Form) -> list[int]:
    """D of each one's features (N, D, H, W), or (N, D) with `vectors`."""
    if any(one.ndim != (4 if form == "maps" else 2) for one in features):
        shapes = ", ".join(map(shape_of, features))
        raise InputError(f"features of student and teachers are {shapes}; {form} are (batch, channels{_TAILS[form]})")
    return [one.shape[1] for one in features]


def check_features(features: Sequence[Tensor], channels: Sequence[int], form: Form) -> None:
    """Refuses features that have not these channels, or are not of the same samples and positions."""
    right = features[0].ndim == (4 if form == "maps" else 2)
    wanted = [(*features[0].shape[:1], each, *features[0].shape[2:]) for each in channels]
    if not right or [tuple(one.shape) for one in features] != wanted:
        shapes = ", ".join(map(shape_of, features))
        sizes = ", ".join(f"(batch, {each}{_TAILS[form]})" for each in channels)
        raise InputError(f"features of student and teachers are {shapes}; they must agree as {sizes}")


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
        check_features([student, *teachers], self.channels, self.form)
        check_dtype(self, student)
        of_student = self.extractor(self.align_student(student))
        aligned = [align(features.detach()) for align, features in zip(self.align_teachers, teachers, strict=True)]
        of_teachers = [self.extractor(features) for features in aligned]
        decoded = [decode(features) for decode, features in zip(self.decoders, of_teachers, strict=True)]
        return Common(of_student, of_teachers, decoded)


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

"""A network without BatchNorm, dropout or kinks, where rounding stays rounding and the global batch alone decides."""

from torch import nn

from mergenet.models import Model


def build_smooth(classes: int, width: int = 8) -> nn.Module:
    """Two convolutions and a linear layer for digits of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(width, width, 1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(64 * width, classes),
    )


def build_broad(classes: int) -> nn.Module:
    """The same of twice the width."""
    return build_smooth(classes, width=16)


SMOOTH, BROAD = (
    Model(build, {"classifier": "5"}, {"last": "3", "earlier": "1"}) for build in (build_smooth, build_broad)
)

"""Optimizers and schedules by name, for learners and adapters alike."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import optim

from mergenet.config import Choice, Listed, Options

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share of a run, from 0 to 1."""


class Sgd(Options):
    """`torch.optim.SGD`; defaults as in the authors' CIFAR-100 script (run_res50_mbv2.py)."""

    lr: PositiveFloat = 0.1
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    nesterov: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: is a form of momentum, and there is none; leave it out")
        return self

    @property
    def remembers(self) -> bool:
        """Whether it keeps anything of a weight from step to step."""
        return self.momentum > 0

    def build(self, parameters: Iterable[Any]) -> optim.Optimizer:
        """The optimizer over parameters or parameter groups."""
        return optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


class AdamW(Options):
    """`torch.optim.AdamW`; weight decay as in the authors' adapter."""

    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 5e-4

    @property
    def remembers(self) -> bool:
        """Whether it keeps anything of a weight from step to step."""
        return True

    def build(self, parameters: Iterable[Any]) -> optim.Optimizer:
        """The optimizer over parameters or parameter groups."""
        return optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)


class Constant(Options):
    """The learning rate as given."""

    def multiplier(self, progress: float) -> float:
        """What the learning rate is multiplied by when `progress` (a share of the run) is done."""
        return 1.0


class Cosine(Options):
    """Half a cosine from the full rate to zero."""

    def multiplier(self, progress: float) -> float:
        """What the learning rate is multiplied by when `progress` (a share of the run) is done."""
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class Steps(Options):
    """The rate multiplied by `factor` at each share of the run in `at` (60, 120, 160 of 200 epochs by default)."""

    at: Listed[Share] = (0.3, 0.6, 0.8)
    factor: PositiveFloat = 0.2

    def multiplier(self, progress: float) -> float:
        """What the learning rate is multiplied by when `progress` (a share of the run) is done."""
        return math.prod(self.factor for share in self.at if progress >= share)


Optimizer = Annotated[Sgd | AdamW, Choice(sgd=Sgd, adamw=AdamW)]
Schedule = Annotated[Constant | Cosine | Steps, Choice(constant=Constant, cosine=Cosine, steps=Steps)]


def set_rate(optimizer: optim.Optimizer, base: float, factor: float) -> None:
    """Sets every parameter group's learning rate to `base * factor`."""
    for group in optimizer.param_groups:
        group["lr"] = base * factor

"""Layouts: which tensors of a layer make the matrix of its port, and how.

A layer is W (out, in) or (out, in, height, width) with a bias (out), or two trained factors of W: B (out, r) and
A (r, rest). Sizes in comments are those of a Conv2d.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from mergenet.config import InputError

Flattening = Literal["outputs", "kernel"]
Factor = Literal["A", "B", "both"]

FACTORS = {"B": "parametrizations.weight.original0", "A": "parametrizations.weight.original1"}
"""Where torch keeps the parameters of a weight that is computed from two."""


class Layout(ABC):
    """How tensors of a layer lie in one matrix."""

    @abstractmethod
    def names(self, layer: str, there: Mapping[str, Tensor]) -> list[str]:
        """The dotted parameters of `layer` that take part, of those that are `there`; none if there is no such layer.

        Raises:
            InputError: the layer is there without them.
        """

    @abstractmethod
    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The matrix (m, n) of these tensors."""

    @abstractmethod
    def split(self, matrix: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """What `join` made a matrix of: tensors of the shapes of `like`."""


@dataclass(frozen=True)
class Dense(Layout):
    """A weight as it is.

    Attributes:
        flattening: a kernel as (out, in * height * width), or as (out * height, in * width), the authors' LowRankConv;
            a kernel of another number of dimensions always has one row an output.
        bias: whether it is the last column (the authors' hyper_module.py).
    """

    flattening: Flattening = "outputs"
    bias: bool = False

    @override
    def names(self, layer: str, there: Mapping[str, Tensor]) -> list[str]:
        if _are_factors(layer, there):
            raise InputError("is trained as two factors; what takes part of it is one of them: encoding: factored")
        weight = layer if layer in there else f"{layer}.weight"
        if weight not in there:
            return []
        if not self.bias:
            return [weight]
        if f"{layer}.bias" not in there:
            raise InputError("has no bias; leave `bias` out")
        return [weight, f"{layer}.bias"]

    @override
    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        matrix = self._flat(tensors[0])
        return torch.cat([matrix, tensors[1].unsqueeze(1)], dim=1) if self.bias else matrix

    @override
    def split(self, matrix: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        if not self.bias:
            return [self._unflat(matrix, like[0])]
        return [self._unflat(matrix[:, :-1], like[0]), matrix[:, -1]]

    def _flat(self, weight: Tensor) -> Tensor:
        if self.flattening == "outputs" or weight.dim() != 4:
            return weight.reshape(weight.shape[0], -1)
        out, into, height, width = weight.shape
        return weight.transpose(1, 2).reshape(out * height, into * width)

    def _unflat(self, matrix: Tensor, like: Tensor) -> Tensor:
        if self.flattening == "outputs" or like.dim() != 4:
            return matrix.reshape(like.shape)
        out, into, height, width = like.shape
        return matrix.reshape(out, height, into, width).transpose(1, 2)


@dataclass(frozen=True)
class Factors(Layout):
    """The trained factors of W = B A: A (r, rest), which the authors' code attends, B (out, r), or B above A'."""

    factor: Factor = "A"

    @override
    def names(self, layer: str, there: Mapping[str, Tensor]) -> list[str]:
        factors = [f"{layer}.{FACTORS[name]}" for name in ("B", "A") if self.factor in (name, "both")]
        if _are_factors(layer, there):
            return factors
        if any(name in there for name in (layer, f"{layer}.weight", f"{layer}.{FACTORS['B']}")):
            raise InputError("is not factored: its learner says so with `factored: {PORT: {rank: 8}}`")
        return []

    @override
    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.cat([tensors[0], tensors[1].T])

    @override
    def split(self, matrix: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        if len(like) == 1:
            return [matrix]
        return [matrix[: len(like[0])], matrix[len(like[0]) :].T]


def _are_factors(layer: str, there: Mapping[str, Tensor]) -> bool:
    """Whether the weight of `layer` is a product; torch names what a weight norm is made of just so."""
    left, right = (there.get(f"{layer}.{FACTORS[name]}") for name in ("B", "A"))
    return left is not None and right is not None and left.dim() == right.dim() == 2 and left.shape[1] == len(right)

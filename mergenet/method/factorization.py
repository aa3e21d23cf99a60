"""Layers re-parameterised as W = B A with both factors trained (Eq. 4 and 5; the authors' LowRankConv, LowRankLinear).

There is no dense weight any more: gradients, optimizer and DDP see B (out, rank) and A (rank, rest). The forward
pass computes W from them, and `merge` puts it in their place in a state dict.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from mergenet.config import InputError, nearest
from mergenet.method.layout import FACTORS


class Product(nn.Module):
    """W = B A in the shape of the layer's weight.

    Layers begin at the nearest matrix of the rank to their dense beginning, the factors of equal norm; the authors
    draw both factors at random, which leaves pre-trained weights behind.
    """

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.shape = shape
        self.rank = rank

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """The weight of B (out, rank) and A (rank, rest)."""
        return (left @ right).view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """B and A of a weight: its leading singular vectors, each with the root of its singular value."""
        matrix = weight.reshape(len(weight), -1)
        if matrix.is_meta:
            return matrix.new_empty(len(matrix), self.rank), matrix.new_empty(self.rank, matrix.shape[1])
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        roots = values[: self.rank].sqrt()
        return left[:, : self.rank] * roots, roots.unsqueeze(1) * right[: self.rank]


def factor(model: nn.Module, ranks: Mapping[str, int], named: Mapping[str, str]) -> None:
    """Re-parameterises layers of `model` in place, before an optimizer or DDP holds on to their weights.

    Args:
        ranks: port -> rank of its factors.
        named: ports people know -> dotted name of their layer.

    Raises:
        InputError: no such layer, one that is parametrised already, or a rank above what its weight has; it begins
            with the port.
    """
    modules = dict(model.named_modules())
    for port, rank in ranks.items():
        layer = modules.get(named.get(port, port).removesuffix(".weight"))
        if layer is not None and is_parametrized(layer, "weight"):
            raise InputError(f"{port}: its layer is parametrised already, under another name or by its model")
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() < 2:
            there = [name for name, one in modules.items() if isinstance(one, nn.Linear | nn.Conv2d)]
            raise InputError(f"{port}: no layer with a matrix of that name; {nearest(port, [*named, *there])}")
        rows, columns = len(weight), weight[0].numel()
        if rank > min(rows, columns):
            raise InputError(f"{port}.rank: {rank} is above {min(rows, columns)}, the most a {rows} x {columns} has")
        assert layer is not None
        register_parametrization(layer, "weight", Product(weight.shape, rank))


def merge(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A state dict with W in the place of factors, in the order of the names in `shapes`, those of the plain model."""

    def weight(name: str) -> Tensor:
        if name in state:
            return state[name]
        layer = name.removesuffix(".weight")
        left, right = (state[f"{layer}.{FACTORS[factor]}"] for factor in ("B", "A"))
        return (left @ right).view(shapes[name])

    return {name: weight(name) for name in shapes}

"""A port: a weight of a model seen as the matrix that takes part in a transfer.

Shape legend: (m, n) is the target's matrix, (p, q) the source's; rows are outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mergenet.config import InputError, nearest


@dataclass(frozen=True)
class Port:
    """A weight that may take part, under the `name` a person gave and its dotted `path` without `.weight`.

    A Linear weight is (out, in); a Conv2d weight is (out, in * kh * kw).
    """

    name: str
    path: str
    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.weight.shape[0], self.weight[0].numel()

    def read(self) -> Tensor:
        """A copy of the matrix: later steps of the optimizer do not reach it."""
        return self.weight.detach().clone().reshape(self.shape)

    def gradient(self) -> Tensor:
        """A copy of the weight's gradient, as the last backward pass left it, as a matrix."""
        assert self.weight.grad is not None, "the target has stepped since the transfer"
        return self.weight.grad.detach().clone().reshape(self.shape)

    def write(self, matrix: Tensor) -> None:
        """Copies `matrix` into the weight in place.

        The parameter stays the object that DDP's hooks and the optimizer's state hold on to.
        """
        with torch.no_grad():
            self.weight.copy_(matrix.reshape(self.weight.shape))


def find_port(weights: Mapping[str, Tensor], name: str, named: Mapping[str, str]) -> Port:
    """The port `name` among `weights` (dotted parameter -> weight): a name in `named`, or a dotted parameter itself.

    `named` leads from names to dotted parameters; `.weight` may be left out of those.

    Raises:
        InputError: no such parameter (with the nearest), or one that is no matrix.
    """
    wanted = named.get(name, name)
    path = wanted if wanted in weights else f"{wanted}.weight"
    if path not in weights:
        ports = [*named, *(path.removesuffix(".weight") for path, weight in weights.items() if weight.dim() > 1)]
        raise InputError(f"no port '{name}'; {nearest(name, ports)}")
    weight = weights[path]
    if weight.dim() < 2:
        raise InputError(f"port '{name}' is a vector of {weight.numel()}: only a matrix or a kernel can take part")
    return Port(name, path.removesuffix(".weight"), weight)

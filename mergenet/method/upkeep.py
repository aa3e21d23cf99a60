"""Upkeep of a written weight: what else remembers the weight that was there, and would now be wrong about it.

The optimizer keeps momentum of the old weight, a BatchNorm behind it the running statistics of its outputs. The
paper and the authors' code leave both as they are.
"""

from typing import Literal

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from mergenet.config import InputError
from mergenet.method.matching import SMALLEST
from mergenet.method.ports import Port, sharded_as, whole

Policy = Literal["keep", "reset", "rescale"]
Change = Literal["reset", "rescale"]

KNOWN = (optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam)
"""Optimizers that remember momentum, and squares under names that end in `sq`.

Others remember what grows otherwise (the mean weight of ASGD), or cannot begin anew with one weight (Adagrad).
"""


def check_remembers(optimizer: optim.Optimizer) -> None:
    """Refuses an optimizer whose memory of a weight is not known, or that has none.

    Raises:
        InputError: it is none of `KNOWN`, or SGD without momentum.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate and Lightning wrap it so
    if not isinstance(inner, KNOWN):
        known = ", ".join(one.__name__ for one in KNOWN)
        raise InputError(f"{type(inner).__name__} is none of {known}, whose memory is known; leave it at 'keep'")
    if isinstance(inner, optim.SGD) and not any(group["momentum"] for group in inner.param_groups):
        raise InputError("SGD without momentum remembers nothing; leave it at 'keep'")


def find_batchnorm(model: nn.Module, path: str, outputs: int) -> _BatchNorm:
    """The BatchNorm right behind the layer `path` in the order in which the model lists its layers.

    Raises:
        InputError: what comes next is none of `outputs` channels.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if not any(layer.children()) or name == path]
    names = [name for name, _ in layers]
    behind = layers[names.index(path) + 1][1] if path in names[:-1] else None
    if not isinstance(behind, _BatchNorm) or behind.num_features != outputs:
        raise InputError(f"no BatchNorm comes right behind '{path}'; leave it at 'keep'")
    return behind


def make_upkeep(
    optimizer_state: Policy, batchnorm: Policy, optimizer: optim.Optimizer | None, model: nn.Module, port: Port
) -> "Upkeep":
    """What the policies ask for, of the target's optimizer and of the BatchNorm in its model behind `port`.

    Raises:
        InputError: there is no such BatchNorm.
    """
    remembers = None if optimizer is None or optimizer_state == "keep" else (optimizer, optimizer_state)
    if batchnorm == "keep":
        return Upkeep(remembers)
    return Upkeep(remembers, (find_batchnorm(model, port.path, len(port.tensors[0])), batchnorm))


class Upkeep:
    """Called after each write; without arguments it keeps all as it is.

    `reset` forgets. `rescale` changes what is remembered as if each row had only grown: a row s times as long has
    outputs s times as large, variances s^2, and, where a norm undoes the growth, gradients 1/s as large.

    Args:
        optimizer: of the target, with what is done to its state of the written weight.
        batchnorm: behind the target, with what is done to its running statistics.
    """

    def __init__(
        self,
        optimizer: tuple[optim.Optimizer, Change] | None = None,
        batchnorm: tuple[_BatchNorm, Change] | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._batchnorm = batchnorm

    def after_write(self, port: Port, before: Tensor, after: Tensor) -> None:
        """What `port` held was the matrix `before`, and is `after` now."""
        if self._optimizer is None and self._batchnorm is None:
            return
        old, new = (port.layout.split(matrix, port.tensors) for matrix in (before, after))
        growths = [_growth(a, b) for a, b in zip(old, new, strict=True)]
        if port.tensors[-1].dim() == 1:  # a bias: one entry of each row, which alone may be as good as zero
            growths[-1] = growths[0]
        if self._optimizer is not None:
            optimizer, policy = self._optimizer
            for tensor, growth in zip(port.tensors, growths, strict=True):
                _keep_up_optimizer(optimizer, tensor, growth, policy)
        if self._batchnorm is not None:
            _keep_up_batchnorm(*self._batchnorm, growth=growths[0])


def _growth(before: Tensor, after: Tensor) -> Tensor:
    """(rows,): how many times as long each row has become."""
    old, new = (tensor.reshape(len(tensor), -1).norm(dim=1) for tensor in (before, after))
    return new.clamp_min(SMALLEST) / old.clamp_min(SMALLEST)


def _keep_up_optimizer(optimizer: optim.Optimizer, tensor: Tensor, growth: Tensor, policy: Change) -> None:
    """Momentum, and squares under names that say so (`exp_avg_sq`), of a known optimizer."""
    if policy == "reset":
        optimizer.state.pop(tensor, None)  # they begin anew with a tensor they have nothing of
        return
    for name, held in optimizer.state.get(tensor, {}).items():
        if isinstance(held, Tensor) and held.shape == tensor.shape:
            rows = growth.view(-1, *[1] * (held.dim() - 1)) ** (2 if name.endswith("sq") else 1)
            held.copy_(sharded_as(held, whole(held) / rows))


def _keep_up_batchnorm(norm: _BatchNorm, policy: Change, growth: Tensor) -> None:
    if policy == "reset":
        norm.reset_running_stats()
    elif norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            norm.running_mean.mul_(growth)
            norm.running_var.mul_(growth.square())

"""The two ends of a transfer: found in modules that somebody else built, wrapped and trains."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from mergenet.config import InputError, about
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port, check_flattening, find_port
from mergenet.method.upkeep import Upkeep, check_remembers, make_upkeep
from mergenet.method.wrapped import bare, weights_of
from mergenet.models import known_ports

WRITTEN = (torch.float32, torch.bfloat16, torch.float16)
Holder = nn.Module | Mapping[str, Any]
"""What has weights: a module, or a map from names to tensors."""


class End:
    """A port, and the module or map that must still hold it when it is used."""

    def __init__(self, name: str, holder: Holder, port: str, options: TransferOptions) -> None:
        self._name = name
        self._holder = holder
        if not isinstance(port, str):
            raise InputError(f"{name}: a port is a name like 'fc.weight', got {port!r}")
        weights = self._weights()
        with about(name):
            self.port = find_port(weights, port, known_ports(weights), options.layout)

    def _weights(self) -> dict[str, Tensor]:
        if isinstance(self._holder, Mapping):
            return {name: tensor for name, tensor in self._holder.items() if isinstance(tensor, Tensor)}
        if not isinstance(self._holder, nn.Module):
            kind = type(self._holder).__name__
            raise InputError(f'{self._name}: is a torch.nn.Module or a map like {{"fc.weight": tensor}}, got {kind}')
        with about(self._name):
            return weights_of(self._holder)

    def check(self) -> None:
        """Refuses what would be written to a tensor that is no longer the weight."""
        weights = self._weights()
        for name, tensor in self.port.parameters.items():
            if weights.get(name) is not tensor:
                raise InputError(
                    f"{self._name}: '{name}' is another tensor than when the transfer was made; "
                    "make it after what replaces weights (`fully_shard`), as an optimizer is made"
                )


def check_ends(source: Port, target: Port, options: TransferOptions) -> None:
    """Both ends can take part, and are two."""
    for name, tensor in source.parameters.items():
        if not tensor.is_floating_point():
            raise InputError(f"source: '{name}' holds {_type(tensor)}; only floating point numbers can be read")
    for name, tensor in target.parameters.items():
        if tensor.dtype not in WRITTEN:
            raise InputError(f"target: '{name}' holds {_type(tensor)}, and what is written is float32; cast the model")
        if options.control != "own" and any(tensor is other for other in source.tensors):
            raise InputError(f"to_port: '{target.name}' is what it reads; name another port")
    for key, port in (("from_port", source), ("to_port", target)):
        with about(f"{key} '{port.name}'"):
            options.encoding.build(port.shape)
    if options.flattening != "outputs":
        with about("flattening"):
            check_flattening((target if options.control == "own" else source, target))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def upkeep_of(
    options: TransferOptions, target: nn.Module, port: Port, target_optimizer: optim.Optimizer | None
) -> Upkeep:
    """What is done to the target's optimizer and BatchNorm after a write.

    Raises:
        InputError: no optimizer, one of other weights or of unknown memory, or no BatchNorm behind the port.
    """
    if options.optimizer_state != "keep":
        if target_optimizer is None:
            raise InputError("optimizer_state: is that of the optimizer of the target; pass it as target_optimizer")
        trained = {id(tensor) for group in target_optimizer.param_groups for tensor in group["params"]}
        if not trained.issuperset(map(id, port.tensors)):
            raise InputError(f"target_optimizer: does not train '{port.name}'; pass the one that does")
        with about("optimizer_state"):
            check_remembers(target_optimizer)
    with about("batchnorm"):
        return make_upkeep(options.optimizer_state, options.batchnorm, target_optimizer, bare(target), port)

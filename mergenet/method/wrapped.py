"""The weights of a module by the names its author gave them, whatever it has been wrapped in since."""

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mergenet.config import InputError

COMPILED = "_orig_mod"
"""Where `torch.compile` keeps the module that it compiles."""


def bare(module: nn.Module) -> nn.Module:
    """The module inside DDP and `torch.compile`."""
    while True:
        if isinstance(module, DistributedDataParallel | DataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, COMPILED, None), nn.Module):
            module = inner
        else:
            return module


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Dotted name -> parameter, one tied to another under both names; sharded ones (FSDP2) as DTensors.

    Raises:
        InputError: it is in the first FSDP, which hides the shapes of weights.
    """
    for inner in module.modules():
        if isinstance(inner, FullyShardedDataParallel):
            raise InputError("FullyShardedDataParallel flattens weights; shard it by `fully_shard` (FSDP2)")
        if isinstance(inner, FSDPModule):
            inner.reshard()  # after a forward without a backward the whole weights would still be in use
    named = bare(module).named_parameters(remove_duplicate=False)
    return {name.replace(f"{COMPILED}.", ""): parameter for name, parameter in named}

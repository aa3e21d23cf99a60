"""The processes of a run: who this one is, sums over all, and the guard that all hold the same weights.

Without a process group every function means a world of one.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mergenet.config import InputError
from mergenet.training.remote import Away


class ReplicaDrift(RuntimeError):
    """Ranks that should hold equal weights do not."""


def world() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def launched_by_torchrun() -> bool:
    """Whether the environment asks this process to join a group of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(kind: str) -> torch.device:
    """The device of this process: the CPU, or the GPU of its number on this machine.

    A GPU is to give the same bits each time: by default cuDNN takes gradients of convolutions that add up in any order.
    """
    if kind != "cuda":
        return torch.device(kind)
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise InputError(f"this machine has {there} GPUs, and each of at least {number + 1} processes needs one")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic = True
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The group that torchrun asks for; nothing where there is none to join or one exists already."""
    if dist.is_initialized() or not launched_by_torchrun():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`sums` of scalars, summed over all ranks; every rank has the same names."""
    if world() == 1 or not sums:
        return dict(sums)
    flat = torch.stack([sums[name] for name in sorted(sums)])
    dist.all_reduce(flat)
    return dict(zip(sorted(sums), flat.unbind(), strict=True))


def from_first(value: Any) -> Any:
    """Rank 0's picklable `value` on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def agreeing() -> Iterator[None]:
    """What is refused inside on one rank is refused on all: none is left waiting for one that has gone.

    Raises:
        InputError, Away: the first rank's that was refused, or whose object store is away.
    """
    problem: InputError | Away | None = None
    try:
        yield
    except (InputError, Away) as error:
        problem = type(error)(str(error))  # without the way to it, which may not travel
    problems = [problem]
    if world() > 1:
        problems = [None] * world()
        dist.all_gather_object(problems, problem)
    for refused in problems:
        if refused is not None:
            raise refused


def wait_for_all() -> None:
    """Returns when every rank has come here."""
    if world() > 1:
        dist.barrier()


def share_buffers(module: nn.Module) -> None:
    """Rank 0's buffers on every rank: BatchNorm statistics differ between forwards, and rank 0's are kept."""
    if world() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def check_replicas(parameters: Mapping[str, Tensor]) -> None:
    """Compares the bits of `parameters` over all ranks.

    Raises:
        ReplicaDrift: on every rank alike, naming the first parameter that differs and where.
    """
    if world() == 1:
        return
    mine = torch.stack([_fingerprint(parameter) for parameter in parameters.values()])
    gathered = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(gathered, mine)
    for index, name in enumerate(parameters):
        strays = [other for other in range(world()) if gathered[other][index] != gathered[0][index]]
        if strays:
            raise ReplicaDrift(f"'{name}' differs between rank 0 and rank {strays[0]}")


def _fingerprint(parameter: Tensor) -> Tensor:
    """An int64 that changes when a bit or the place of a value does (sums wrap around)."""
    bits = parameter.detach().flatten().view(torch.int32).to(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device) * 2654435761
    return (bits * places).sum()

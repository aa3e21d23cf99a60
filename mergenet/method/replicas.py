"""Rank 0's values on every rank: an adapter stands outside DDP, and its copies must stay equal bit for bit."""

import torch
from torch import Tensor
from torch import distributed as dist


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def from_first_rank(tensor: Tensor) -> None:
    """Rank 0's values on every rank: no drift from kernels that differ between machines."""
    if _several_ranks():
        dist.broadcast(tensor, src=0)


def moved_on_first_rank(delta: Tensor) -> bool:
    """Whether any entry is not zero, as rank 0 sees it: what is computed elsewhere may differ in rounding."""
    moved = delta.count_nonzero()
    from_first_rank(moved)
    return bool(moved)


def allfrom_first_rank(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rank 0's values on every rank, in one message."""
    if not _several_ranks():
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    from_first_rank(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))

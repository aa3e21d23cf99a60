"""Running a function on several gloo ranks of this machine, without a port: they meet in a file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing


def on_ranks(world: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returned on each rank, in order; an error on any rank is raised here."""
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(_rank, (world, function, folder, arguments), nprocs=world)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1000 + rank)  # whatever is not keyed would differ
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.save(function(*arguments), folder / f"result-{rank}.pt")
    sys.stdout.flush()
    dist.destroy_process_group()

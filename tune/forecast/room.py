"""What packs beside what: how many runs at once by processors and by memory, and whether the disk holds them."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mergenet.config import InputError

GPU_CONTEXT_BYTES = 512 * 2**20
"""What CUDA itself holds of a GPU for every process."""


@dataclass(frozen=True)
class Packing:
    """How many runs at once.

    Attributes:
        at_once: by what binds.
        by_places: by processors, or by GPUs, as many as are asked for.
        by_memory: that fit into the memory that is free.
        by_gpu_memory: that fit on the GPUs; None on processors.
        each: processors, or GPUs, of one run.
        there: processors, or GPUs, of this machine.
        memory_bytes, free_bytes: of one run, and free on this machine.
    """

    at_once: int
    by_places: int
    by_memory: int
    by_gpu_memory: int | None
    each: int
    there: int
    memory_bytes: int
    free_bytes: int

    @property
    def binds(self) -> str:
        """Of what there would have to be more to run more at once."""
        limits = {
            "processors" if self.by_gpu_memory is None else "GPUs": self.by_places,
            "memory": self.by_memory,
            "the GPU's memory": self.by_places if self.by_gpu_memory is None else self.by_gpu_memory,
        }
        return min(limits, key=limits.__getitem__)

    @property
    def fits(self) -> bool:
        """Whether even one does."""
        return self.by_memory > 0 and self.by_gpu_memory != 0


def packing(
    there: int, each: int, asked: int | None, memory_bytes: int, free_bytes: int, gpu: tuple[int, int] | None = None
) -> Packing:
    """How many runs fit at once.

    Args:
        there, each: processors of the machine and of a run; GPUs where `gpu` is given.
        asked: so many and no more; on GPUs, which they may share, so many.
        memory_bytes, free_bytes: of one run, and of the machine.
        gpu: bytes that a run holds of its GPU, and that the GPU has.

    Raises:
        InputError: not one fits, or not as many as are asked for.
    """
    places = most_at_once(there, each, asked, gpu is not None)
    by_memory = free_bytes // max(memory_bytes, 1)
    by_gpu = None if gpu is None else there * (gpu[1] // (gpu[0] + GPU_CONTEXT_BYTES))
    at_once = max(1, min(places, by_memory, places if by_gpu is None else by_gpu))
    return Packing(at_once, places, by_memory, by_gpu, each, there, memory_bytes, free_bytes)


def most_at_once(there: int, each: int, asked: int | None, on_gpu: bool) -> int:
    """Runs at once by processors or GPUs alone.

    Raises:
        InputError: not one fits, or not as many as are asked for.
    """
    what = "GPUs" if on_gpu else "processors"
    most = there // each
    if most < 1:
        raise InputError(f"a run takes {each} {what}, and this machine has {there}: take fewer --threads or --workers")
    if asked is not None and asked > most and not on_gpu:
        raise InputError(f"--concurrent {asked}: {there} {what} have room for {most} runs of {each} each")
    return asked or most


# --- disk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """What runs leave behind.

    Attributes:
        needed_bytes: the newest two checkpoints and the metrics of every run, without what MLflow mirrors.
        free_bytes: in the folder `where`, or where it would be made.
    """

    needed_bytes: int
    free_bytes: int
    where: str

    @property
    def fits(self) -> bool:
        """Whether they do."""
        return self.needed_bytes <= self.free_bytes


def disk(each: Iterable[int], runs: Path) -> Disk:
    """Whether runs that leave so many bytes each fit into a folder."""
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.is_dir())
    return Disk(sum(each), shutil.disk_usage(there).free, str(there))

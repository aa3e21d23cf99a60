"""How many workers a run may have: those among which every batch can be cut evenly."""

from collections.abc import Sequence

from mergenet.config import InputError
from mergenet.experiment import Experiment


def exactly(workers: int) -> range:
    """So many and no others."""
    return range(workers, workers + 1)


def divides(experiment: Experiment, workers: int) -> bool:
    """Whether every learner's batch, in its parts, can be cut evenly over so many workers."""
    options = [one.training for one in experiment.trained().values()]
    return all(one.batch_size % (workers * one.accumulation) == 0 for one in options)


def sizes_among(experiment: Experiment, workers: range, said: str) -> tuple[int, ...]:
    """Those of `workers` over which every batch can be cut, ascending.

    Args:
        said: what asks for them, for the refusal.

    Raises:
        InputError: there is none, or of several only one, between which nothing could change.
    """
    fit = tuple(size for size in workers if divides(experiment, size))
    if len(fit) >= min(len(workers), 2):
        return fit
    near = [size for size in range(1, 2 * workers[-1] + 1) if divides(experiment, size)]
    batches = ", ".join(f"{name} {one.training.batch_size}" for name, one in experiment.trained().items())
    only = f"only by {fit[0]} of {workers[0]} to {workers[-1]}" if fit else f"not by {among(workers)}"
    right = f"; by {among(near)} they do" if near else "; see training.accumulation"
    raise InputError(f"{said}: batches ({batches}) divide {only} workers{right}")


def among(sizes: Sequence[int | str]) -> str:
    """In words: `2`, `1, 2 or 4`."""
    *others, last = map(str, sizes)
    return f"{', '.join(others)} or {last}" if others else last

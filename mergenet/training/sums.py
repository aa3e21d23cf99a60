"""Running sums of scalars over steps and ranks."""

from collections.abc import Mapping

from torch import Tensor

from mergenet.training import ranks


class Sums:
    """Running sums of scalars since the last `take`; settled over the ranks, so that a checkpoint can hold them."""

    def __init__(self) -> None:
        self._settled: dict[str, Tensor] = {}
        self._open: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds this rank's part."""
        for name, value in values.items():
            self._open[name] = self._open.get(name, 0.0) + value.detach().double()

    def settle(self) -> dict[str, Tensor]:
        """The sums over all ranks so far; every rank must call it."""
        for name, value in ranks.total(self._open).items():
            self._settled[name] = self._settled.get(name, 0.0) + value
        self._open = {}
        return dict(self._settled)

    def take(self) -> dict[str, float]:
        """The settled sums as numbers, starting anew."""
        sums = {name: float(value) for name, value in self.settle().items()}
        self._settled = {}
        return sums

    def restore(self, settled: Mapping[str, Tensor]) -> None:
        """Goes on from what `settle` gave."""
        self._settled, self._open = dict(settled), {}

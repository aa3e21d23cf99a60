"""A tick: one optimizer step of the loop, and what transfers do before and after it."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mergenet.method.options import by_turn

if TYPE_CHECKING:
    from mergenet.library.transfer import Transfer


class Ticking:
    """What one transfer and several have in common: a tick is a `with` block, or `begin` and `end`."""

    def _transfers(self) -> Sequence["Transfer"]:
        raise NotImplementedError

    def begin(self) -> None:
        """Opens a tick, before the optimizer steps; where it is due, reads and writes.

        Raises:
            InputError: the last tick has not ended, or a module holds other weights than when this was made.
        """
        transfers = self._transfers()
        for transfer in transfers:
            transfer._expect(open_=False)
        due = [transfer for transfer in transfers if transfer._due()]
        for turn in by_turn(due, lambda transfer: transfer.options):
            for transfer in turn:
                transfer._read()
            for transfer in turn:
                transfer._write()
        for transfer in transfers:
            transfer._open = True

    def end(self) -> None:
        """Closes the tick, after the optimizer steps; where its span ends, the adapter learns.

        Raises:
            InputError: no tick has begun, or `update: loss` finds no gradient.
        """
        transfers = self._transfers()
        for transfer in transfers:
            transfer._expect(open_=True)
            transfer._check_gradient()
        for transfer in transfers:
            transfer._learn()
            transfer.ticks += 1
            transfer._open = False

    def abandon(self) -> None:
        """Closes a tick whose step failed: it is not counted, nothing is learned from it, and the next takes its place.

        What it wrote stays. The next tick has its number, so that it is due if this one was, and reads and writes anew.
        """
        for transfer in self._transfers():
            transfer._open = False

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()
        else:
            self.abandon()

"""Several transfers, in a loop that is not ours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergenet.config import InputError
from mergenet.library.ticks import Ticking
from mergenet.library.transfer import Transfer


class Transfers(Ticking):
    """Several transfers on the same ticks: those of one `turn` all read before any of them writes.

    Args:
        transfers: with ports of their own to write to; each counts its own ticks.

    Raises:
        InputError: two write to one weight, or there is none.
    """

    def __init__(self, transfers: Iterable[Transfer]) -> None:
        self.transfers = list(transfers)
        if not self.transfers:
            raise InputError("transfers: there is none")
        writers: dict[int, Transfer] = {}
        for transfer in self.transfers:
            for tensor in transfer._engine.port.tensors:
                if id(tensor) in writers:
                    raise InputError(
                        f"transfers: {transfer!r} writes where {writers[id(tensor)]!r} does; leave one out"
                    )
                writers[id(tensor)] = transfer

    def __repr__(self) -> str:
        return f"Transfers({self.transfers})"

    def state_dict(self) -> dict[str, Any]:
        """The states of all, in their order."""
        return {"transfers": [transfer.state_dict() for transfer in self.transfers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            InputError: it is the state of other transfers.
        """
        if "transfers" not in state:
            raise InputError("state: is not that of Transfers")
        states = state["transfers"]
        if len(states) != len(self.transfers):
            raise InputError(f"state: is of {len(states)} transfers, and here are {len(self.transfers)}")
        for transfer, one in zip(self.transfers, states, strict=True):
            transfer.load_state_dict(one)

    def _transfers(self) -> Sequence[Transfer]:
        return self.transfers

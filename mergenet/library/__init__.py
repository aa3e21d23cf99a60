"""Transfers in training loops of other people: one `with` block around one optimizer step.

    transfer = Transfer(source, target, "fc.weight", "features.16.conv.2.weight", rank=8, cycle=4, steps=10_000)
    for images, labels in loader:
        with transfer:
            step(source, images, labels)  # forward, backward, optimizer: the loop's own
            step(target, images, labels)

It is a front on `mergenet.method.transfer`, which the runs of this package use: the same loop, the same weights.
"""

from mergenet.library.transfer import Transfer
from mergenet.library.transfers import Transfers

__all__ = ["Transfer", "Transfers"]

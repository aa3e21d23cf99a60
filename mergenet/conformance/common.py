"""What both suites share."""

import io
from typing import Any

import torch
from torch import Tensor

from mergenet import randomness
from mergenet.config import Options, parse

Size = tuple[int, int]
SCALES = (0.0, 1e-6, 1e2)
"""Of weights: a layer may start at zero, and one that is decayed may come near it."""


def draw(size: Size, name: str = "", scale: float = 1.0) -> Tensor:
    """A matrix of `size`, normal with deviation `scale`, another one for another name."""
    return scale * torch.randn(size, generator=randomness.generator("conformance", name, *size))


def through_checkpoint(state: Any) -> Any:
    """`state` as a checkpoint gives it back: tensors and plain values alone."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class OptionsConformance:
    """What any options must hold.

    Attributes:
        options: the options under test.
    """

    options: Any

    def test_its_options_are_read_back_as_they_were_written(self) -> None:
        """A record of a run keeps options as plain values, and whoever repeats the run reads them."""
        kind = type(self.options)
        assert isinstance(self.options, Options), f"{kind.__name__} is no mergenet.config.Options: inherit from it"
        read = parse(kind, self.options.dump())
        assert read == self.options, f"written down and read back they are {read!r} and no more {self.options!r}"

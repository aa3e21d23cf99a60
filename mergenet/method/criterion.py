"""What a loss with teachers is to an experiment: what networks give it, which layers it trains along, its value.

Shape legend: N samples, C classes, D channels or dimensions of a layer's features, H x W positions.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from mergenet.config import Options


class Outputs(NamedTuple):
    """What a network gave of a batch.

    Attributes:
        logits: (N, C).
        features: of one layer, (N, D) or (N, D, H, W), where they are wanted.
    """

    logits: Tensor
    features: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """The features, of which it is known that they are wanted."""
        assert self.features is not None, "a loss that compares features names their layer"
        return self.features


class Given(NamedTuple):
    """What a loss is made of.

    Attributes:
        student: with the graph of its gradient.
        teachers: as many as there are; no gradient flows into them.
        labels: class numbers (N,); None where the loss reads none.
        epoch: of the student, counted from 1.
    """

    student: Outputs
    teachers: Sequence[Outputs]
    labels: Tensor | None
    epoch: int

    @property
    def known_labels(self) -> Tensor:
        """The labels, of which it is known that they are read."""
        assert self.labels is not None, "a loss that reads labels is not given to a student without"
        return self.labels


class Criterion(Options):
    """A loss that a student learns by, from teachers or from itself; a subclass is its options.

    Attributes:
        taught: whether there are teachers.
        labelled: whether it reads the labels; one that does not trains on images alone.
        warms_up: whether it changes with the epoch.
    """

    taught: ClassVar[bool] = True
    labelled: ClassVar[bool] = True
    warms_up: ClassVar[bool] = False

    @property
    def layer(self) -> str | None:
        """The layer whose features are compared, by the name that models know it by; None: logits alone."""
        return None

    def layers_for(self, student: Outputs, teachers: Sequence[Outputs]) -> nn.Module | None:
        """Fresh layers that train along, for outputs of these shapes on any device; None where there are none."""
        return None

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """The loss: a scalar.

        Args:
            given: what student and teachers gave of a batch.
            layers: what `layers_for` gave, on the student's device.

        Raises:
            InputError: shapes that do not go together.
        """
        raise NotImplementedError

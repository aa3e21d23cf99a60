"""Those who teach in a run: a frozen network that sees its student's batch, or a learner that trains beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.data.images import Batch
from mergenet.experiment import LearnerOptions
from mergenet.method.criterion import Outputs
from mergenet.models import find_model
from mergenet.models.features import Features
from mergenet.models.weights import read_weights

if TYPE_CHECKING:
    from mergenet.training.learner import Learner


class Seen(NamedTuple):
    """What a network gave of a batch, detached: logits (N, C), and features of layers by their names."""

    logits: Tensor
    features: dict[str, Tensor]

    def at(self, layer: str | None) -> Outputs:
        """Logits with the features of one layer."""
        return Outputs(self.logits, None if layer is None else self.features[layer])

    @classmethod
    def joined(cls, parts: Sequence["Seen"]) -> "Seen":
        """What was given of the parts of a batch, as of the whole."""
        if len(parts) == 1:
            return parts[0]
        features = {layer: torch.cat([part.features[layer] for part in parts]) for layer in parts[0].features}
        return cls(torch.cat([part.logits for part in parts]), features)

    def clone(self) -> "Seen":
        """A copy that no later pass overwrites."""
        return Seen(self.logits.clone(), {layer: features.clone() for layer, features in self.features.items()})


class Teacher(Protocol):
    """One of those that a student learns from."""

    def diverged(self) -> bool:
        """Whether there is nothing to learn from it any more."""
        ...

    def outputs(self, batch: Batch, part: slice) -> Outputs:
        """What it gives of a part of the student's batch of this tick, without gradient.

        Args:
            part: where it lies in the batch of this rank.
        """
        ...

    def rehearse(self, batch: Batch) -> Outputs:
        """Outputs of the shapes that there will be, from any batch; nothing is changed by it."""
        ...


class FrozenTeacher:
    """A network from a file, in eval mode; its weights never change.

    Args:
        options: of a frozen learner.
        classes: that it tells apart.
        layer: whose features are wanted.
        compiled: whether its forward passes go through `torch.compile`, as its student's do.
    """

    def __init__(
        self, options: LearnerOptions, classes: int, layer: str | None, device: torch.device, compiled: bool
    ) -> None:
        self.layer = layer
        self.model = _read(options, classes).to(device).to(memory_format=torch.channels_last)
        self.features = Features(find_model(options.model), self.model, [layer] if layer else [])
        self.compiled = compiled  # what it gives is then overwritten by its next pass
        if compiled:
            self.model.compile(mode="reduce-overhead" if device.type == "cuda" else None)

    def diverged(self) -> bool:
        """Never."""
        return False

    def outputs(self, batch: Batch, part: slice) -> Outputs:
        """Of the student's images, in its precision."""
        with torch.no_grad():
            logits = self.model(batch.images.clone())  # a model may change them in place
        seen = Seen(logits, dict(self.features.take()))
        return (seen.clone() if self.compiled else seen).at(self.layer)

    def rehearse(self, batch: Batch) -> Outputs:
        """The same: a frozen network does not change."""
        return self.outputs(batch, slice(None))


def _read(options: LearnerOptions, classes: int) -> nn.Module:
    assert options.weights is not None, "an experiment with a frozen learner without weights is refused"
    with randomness.seeded("frozen"):  # drawn and then overwritten; nothing else is to notice
        model = find_model(options.model).build(classes)
    read_weights(options.model, options.weights).load_into(model)
    return model.eval().requires_grad_(False)


class LiveTeacher:
    """A learner that trains on the same batches and has stepped before: what it gave in its own training pass.

    Args:
        layer: whose features are wanted.
    """

    def __init__(self, learner: "Learner", layer: str | None) -> None:
        self.learner = learner
        self.layer = layer

    def diverged(self) -> bool:
        """Whether it has."""
        return self.learner.diverged_at is not None

    def outputs(self, batch: Batch, part: slice) -> Outputs:
        """In train mode, with its weights before its step of this tick."""
        gave = self.learner.gave
        assert gave is not None, "teachers step before their students"
        logits, features = gave.at(self.layer)
        return Outputs(logits[part], None if features is None else features[part])

    def rehearse(self, batch: Batch) -> Outputs:
        """In eval mode, which leaves running statistics as they are."""
        learner = self.learner
        learner.model.eval()
        with torch.no_grad(), learner.autocast():
            logits = learner.model(batch.images)
        learner.model.train()
        return Seen(logits, dict(learner.module.features.take())).at(self.layer)

"""torchvision's classifiers by torchvision's own names."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torchvision
from torch import nn

from mergenet.models import resnet
from mergenet.models.model import Model

# Without their auxiliary heads forward gives plain logits; the initialisation is torchvision's default, said aloud.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@dataclass(frozen=True)
class Published:
    """torchvision's builder of this name, called with the number of classes."""

    name: str

    def arguments(self, classes: int) -> dict[str, Any]:
        """What `torchvision.models.NAME` is called with."""
        return {"num_classes": classes, **ARGUMENTS.get(self.name, {})}

    def __call__(self, classes: int) -> nn.Module:
        """The module, initialised as torchvision does."""
        return torchvision.models.get_model(self.name, **self.arguments(classes))


@cache
def published_names() -> tuple[str, ...]:
    """Names of all of torchvision's classifiers, sorted."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


@cache
def published(name: str) -> Model:
    """The row of torchvision's classifier `name`."""
    is_resnet = name.startswith(("resnet", "resnext", "wide_resnet"))
    return Model(Published(name), layers=resnet.LAYERS if is_resnet else {})

"""Models by name, and the ports people know them by.

A model is a row of `MODELS`: how to build it for a number of classes, and its named ports. Every other
weight is a port under its dotted parameter name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from mergenet.config import InputError, nearest
from mergenet.models import mobilenet, resnet


@dataclass(frozen=True)
class Model:
    """How to build a model, and its ports: name -> dotted parameter without `.weight`."""

    build: Callable[[int], nn.Module]
    ports: Mapping[str, str]


MODELS: dict[str, Model] = {
    "resnet18": Model(resnet.resnet18, resnet.PORTS),
    "resnet50": Model(resnet.resnet50, resnet.PORTS),
    "resnet18-cifar": Model(resnet.resnet18_cifar, resnet.PORTS),
    "resnet50-cifar": Model(resnet.resnet50_cifar, resnet.PORTS),
    "resnet18-narrow": Model(resnet.resnet18_narrow, resnet.PORTS),
    "mobilenet_v2": Model(mobilenet.mobilenet_v2, mobilenet.PORTS),
    "mobilenet_v2-cifar": Model(mobilenet.mobilenet_v2_cifar, mobilenet.PORTS),
    "mobilenet_v2-narrow": Model(mobilenet.mobilenet_v2_narrow, mobilenet.PORTS),
}


def find_model(name: str) -> Model:
    """The row of `name`.

    Raises:
        InputError: no such model, with the nearest.
    """
    if name not in MODELS:
        raise InputError(f"no model '{name}'; {nearest(name, MODELS)}")
    return MODELS[name]

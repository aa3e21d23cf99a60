"""Models by name, and the ports people know them by.

A name is a row of `MODELS`, one of torchvision's classifiers, or a user's own `package.module:function`. Every
weight without a name of its own is a port under its dotted parameter name.
"""

from collections.abc import Mapping

from torch import Tensor

from mergenet.config import InputError, nearest
from mergenet.models import mobilenet, resnet
from mergenet.models.model import UNLIKELY, Model
from mergenet.models.own import code_digest, names_code, own
from mergenet.models.published import Published, published, published_names

__all__ = [
    "MODELS",
    "Model",
    "check_code",
    "code_digest",
    "find_model",
    "known_ports",
    "named_ports",
    "names_code",
    "published_names",
]

MODELS: dict[str, Model] = {
    "resnet18": published("resnet18"),
    "resnet50": published("resnet50"),
    "resnet20-cifar": Model(resnet.resnet20_cifar, resnet.PORTS, resnet.SMALL_LAYERS),
    "resnet56-cifar": Model(resnet.resnet56_cifar, resnet.PORTS, resnet.SMALL_LAYERS),
    "resnet18-cifar": Model(resnet.resnet18_cifar, resnet.PORTS, resnet.LAYERS),
    "resnet50-cifar": Model(resnet.resnet50_cifar, resnet.PORTS, resnet.LAYERS),
    "resnet18-narrow": Model(resnet.resnet18_narrow, resnet.PORTS, resnet.LAYERS),
    "resnet18-narrow16": Model(resnet.resnet18_narrow16, resnet.PORTS, resnet.LAYERS),
    "mobilenet_v2": Model(Published("mobilenet_v2"), mobilenet.PORTS, mobilenet.LAYERS),
    "mobilenet_v2-cifar": Model(mobilenet.mobilenet_v2_cifar, mobilenet.CIFAR_PORTS, mobilenet.LAYERS),
    "mobilenet_v2-narrow": Model(mobilenet.mobilenet_v2_narrow, mobilenet.PORTS, mobilenet.LAYERS),
    "mobilenet_v2-narrow16": Model(mobilenet.mobilenet_v2_narrow16, mobilenet.PORTS, mobilenet.LAYERS),
}
"""Models with named ports or builders of our own."""


def find_model(name: str) -> Model:
    """The row of `name`; a name with a colon runs the user's code (`names_code`).

    Raises:
        InputError: no such model, with the nearest.
    """
    if name in MODELS:
        return MODELS[name]
    if name in published_names():
        return published(name)
    if names_code(name):
        return own(name)
    raise InputError(f"no model '{name}'; {nearest(name, {*MODELS, *published_names()})}")


def check_code(path: str, model: str, allow: bool) -> None:
    """Raises:
    InputError: the model at `path` of an experiment is code of the user's own, and that is not allowed to run.
    """
    if names_code(model) and not allow:
        raise InputError(
            f"{path}: {model} is code of yours that would run here; allow it with --allow-code (allow_code=True)"
        )


def named_ports(name: str) -> list[str]:
    """Every port of a model by its best name: those that people know, then each other weight that is a matrix.

    Raises:
        InputError: no such model.
    """
    model = find_model(name)
    matrices = [path for path, weight in model.sketch(UNLIKELY).named_parameters() if weight.dim() > 1]
    known = set(model.ports.values())
    others = (path.removesuffix(".weight") for path in matrices)
    return [*model.ports, *(path for path in others if path not in known)]


def known_ports(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of ports of a model that somebody else built, told by its weights: those of the first row that fits.

    A row fits where each of its ports is a matrix of the model; a layer that itself has such a name goes before.

    Args:
        weights: dotted name -> parameter.
    """
    matrices = {name.removesuffix(".weight") for name, weight in weights.items() if weight.dim() > 1}
    rows = (model.named for model in MODELS.values() if model.named)
    fitting = next((row for row in rows if matrices.issuperset(row.values())), {})
    return {name: path for name, path in fitting.items() if name not in matrices}

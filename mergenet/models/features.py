"""What a layer of a model gives, taken by a hook while the model does its forward pass."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mergenet.config import InputError, nearest
from mergenet.models.model import Model

POOLED = "pooled"
"""The name of what goes into the classifier, or into all that stands before it: no layer's output, but one's input."""

INTO = "->"
"""Begins the name of a module whose input is meant: `->fc`."""


class Features:
    """The outputs of some layers of a module, kept from a forward pass until they are taken.

    Hooks are there for good, before anything compiles the module, and keep no more than the last pass.

    Args:
        model: the row that `module` was built by.
        layers: names of layers (`Model.layers`), `pooled`, or dotted names of modules, with `->` before for an input.

    Raises:
        InputError: no such layer, with the nearest.
    """

    def __init__(self, model: Model, module: nn.Module, layers: Iterable[str]) -> None:
        self._seen: dict[str, Any] = {}
        self._names = tuple(dict.fromkeys(layers))
        self._hooks = [self._watch(model, module, name) for name in self._names]

    def _watch(self, model: Model, module: nn.Module, name: str) -> Any:
        path = path_of(model, name)
        if path.startswith(INTO):
            layer = find_layer(model, module, path.removeprefix(INTO))
            return layer.register_forward_pre_hook(lambda _, inputs: self._keep(name, *inputs[:1]))
        layer = find_layer(model, module, path)
        return layer.register_forward_hook(lambda _, __, output: self._keep(name, output))

    def _keep(self, name: str, features: Any = None) -> None:
        self._seen[name] = features

    def forget(self) -> None:
        """Lets go of what was kept of a pass that nobody asks about."""
        self._seen = {}

    def take(self) -> Mapping[str, Tensor]:
        """Layer -> its features in the last forward pass, with their graph; nothing is kept.

        Raises:
            InputError: a layer that the pass did not reach, or that gives no tensor of (batch, ...).
        """
        seen, self._seen = self._seen, {}
        for name in self._names:
            if not isinstance(seen.get(name), Tensor) or seen[name].ndim not in (2, 4):
                what = "nothing" if name not in seen else _described(seen[name])
                raise InputError(f"layer '{name}' gave {what}; it must give (batch, channels[, height, width])")
        return seen

    def remove(self) -> None:
        """Takes the hooks out of the module."""
        for hook in self._hooks:
            hook.remove()


def path_of(model: Model, name: str) -> str:
    """The dotted name of the module that is meant by a layer's name, `->` before it where it is its input.

    Raises:
        InputError: `pooled` of a model whose classifier is not known.
    """
    if name != POOLED or POOLED in model.layers:
        return model.layers.get(name, name)
    classifier = model.ports.get("classifier")
    if classifier is None:
        raise InputError(f"layer '{POOLED}' goes into the classifier, and none was found; name a module")
    return f"{INTO}{classifier}"


def find_layer(model: Model, module: nn.Module, name: str) -> nn.Module:
    """The part of `module` that has the dotted name `name`.

    Raises:
        InputError: there is none, with the nearest.
    """
    parts = dict(module.named_modules())
    if name not in parts or not name:
        hint = nearest(name, {*model.layers, POOLED, *(part for part in parts if part)})
        raise InputError(f"no layer '{name}'; {hint}")
    return parts[name]


def _described(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"

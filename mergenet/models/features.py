"""What a layer of a model gives, taken by a hook while the model does its forward pass."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mergenet.config import InputError, nearest
from mergenet.models.model import Model

POOLED = "pooled"
"""The name of what goes into the classifier: no layer's output, but the last one's input."""


class Features:
    """The outputs of some layers of a module, kept from a forward pass until they are taken.

    Hooks are there for good, before anything compiles the module, and keep no more than the last pass.

    Args:
        model: the row that `module` was built by.
        layers: names of layers (`Model.layers`), `pooled`, or dotted names of modules.

    Raises:
        InputError: no such layer, with the nearest.
    """

    def __init__(self, model: Model, module: nn.Module, layers: Iterable[str]) -> None:
        self._seen: dict[str, Tensor] = {}
        self._names = tuple(dict.fromkeys(layers))
        self._hooks = [self._watch(model, module, name) for name in self._names]

    def _watch(self, model: Model, module: nn.Module, name: str) -> Any:
        if name == POOLED and POOLED not in model.layers:
            classifier = model.ports.get("classifier")
            if classifier is None:
                raise InputError(f"layer '{POOLED}' goes into the classifier, and none was found; name a module")
            layer = find_layer(model, module, classifier)
            return layer.register_forward_pre_hook(lambda _, inputs: self._keep(name, inputs[0]))
        layer = find_layer(model, module, name)
        return layer.register_forward_hook(lambda _, __, output: self._keep(name, output))

    def _keep(self, name: str, features: Any) -> None:
        self._seen[name] = features

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


def find_layer(model: Model, module: nn.Module, name: str) -> nn.Module:
    """The part of `module` that is known as `name`, or has it as its dotted name.

    Raises:
        InputError: there is none, with the nearest.
    """
    parts = dict(module.named_modules())
    path = model.layers.get(name, name)
    if path not in parts or not path:
        hint = nearest(name, {*model.layers, POOLED, *(part for part in parts if part)})
        raise InputError(f"no layer '{name}'; {hint}")
    return parts[path]


def _described(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"

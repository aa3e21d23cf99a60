"""What a model is here: how to build it for a number of classes, and its named ports."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

UNLIKELY = 1009  # classes, prime: no other layer has as many outputs by chance


@dataclass(frozen=True)
class Model:
    """A row of the table of models.

    Attributes:
        build: classes -> a fresh module, images (batch, 3, height, width) -> logits (batch, classes).
        named: ports people know, name -> dotted parameter without `.weight`; `classifier` is found if left out.
        layers: whose features people compare, name -> dotted module: `last` gives the last map before it is pooled,
            `earlier` that of the stage before.
    """

    build: Callable[[int], nn.Module]
    named: Mapping[str, str] | None = None
    layers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ports(self) -> Mapping[str, str]:
        """All named ports: name -> dotted parameter without `.weight`."""
        named = self.named or {}
        if "classifier" in named:
            return named
        found = find_classifier(self.sketch(UNLIKELY), UNLIKELY)
        return named if found is None else {"classifier": found, **named}

    def sketch(self, classes: int) -> nn.Module:
        """The module without memory for its weights: all of them on torch's meta device."""
        with torch.random.fork_rng(devices=[]), _weights_on_meta():
            return self.build(classes)


def find_classifier(module: nn.Module, classes: int) -> str | None:
    """The dotted name of the last linear layer, or 1 x 1 convolution, whose outputs are the classes."""
    found = None
    for name, layer in module.named_modules():
        linear = isinstance(layer, nn.Linear) and layer.out_features == classes
        convolution = isinstance(layer, nn.Conv2d) and layer.out_channels == classes and layer.kernel_size == (1, 1)
        if linear or convolution:
            found = name
    return found


@contextmanager
def _weights_on_meta() -> Iterator[None]:
    """Moves each weight to the meta device as its module takes it.

    `torch.device("meta")` would do the same to a builder's own arithmetic, which then has no values to go on.
    """

    def parameter(module: nn.Module, name: str, value: nn.Parameter) -> nn.Parameter:
        return value if value.is_meta else nn.Parameter(value.detach().to("meta"), value.requires_grad)

    def buffer(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to("meta")

    hooks = [
        register_module_parameter_registration_hook(parameter),  # type: ignore[arg-type]  # declared to give None,
        register_module_buffer_registration_hook(buffer),  # type: ignore[arg-type]  # documented to give what is taken
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

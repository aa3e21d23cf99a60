"""Two small networks in a loop of somebody else's, for tests of transfers in it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet.library import Transfer, Transfers

FROM, TO = "2", "0"  # matrices (5, 12) and (8, 6)
PASSES = Callable[[], AbstractContextManager[Any]]


def networks(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Source and target, 6 numbers to 5 classes."""
    torch.manual_seed(seed)
    source = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    return source, nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 5))


class Loop:
    """SGD with momentum for each of `models`; the batch of a tick is keyed by its number."""

    def __init__(self, *models: nn.Module, around: PASSES = nullcontext) -> None:
        self.models, self.around = models, around
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
        self.tick = 0

    def step(self) -> None:
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            optimizer.zero_grad()
            with self.around():
                loss = self.loss(model)
            loss.backward()
            optimizer.step()
        self.tick += 1

    def loss(self, model: nn.Module) -> Tensor:
        inputs = self.inputs().to(next(model.parameters()).dtype)
        return functional.cross_entropy(model(inputs).float(), inputs[:, :5].argmax(1))

    def inputs(self) -> Tensor:
        return torch.randn(16, 6, generator=torch.Generator().manual_seed(self.tick))

    def run(self, transfer: Transfer | Transfers, ticks: int, around: PASSES = nullcontext) -> "Loop":
        for _ in range(ticks):
            with around(), transfer:
                self.step()
        return self

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the loop holds."""
        parts = [*self.models, *self.optimizers]
        return {"parts": [part.state_dict() for part in parts], "tick": self.tick}

    def load(self, state: dict[str, Any]) -> None:
        for part, one in zip([*self.models, *self.optimizers], state["parts"], strict=True):
            part.load_state_dict(one)
        self.tick = state["tick"]


def small(**change: Any) -> dict[str, Any]:
    """Options under which ten ticks of the small networks tell right from wrong."""
    adapter = {"lpka": {"width": 8, "heads": 2, "depth": 1}}
    return {"adapter": adapter, "optimizer": {"adamw": {"lr": 1e-2}}, "cycle": 2, "rank": 3, **change}


def vector(*models: nn.Module) -> Tensor:
    """All weights."""
    return torch.cat([value.detach().flatten() for model in models for value in model.state_dict().values()])


def matrices(model: nn.Module) -> Iterator[Tensor]:
    """Its weights that are no vectors."""
    return (parameter for parameter in model.parameters() if parameter.dim() > 1)

"""One learner and one adapter as anyone would write them, in plain torch, with the run's keys for random numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet import randomness
from mergenet.data.images import Images, hold_out
from mergenet.method.adapter import Lpka
from tests.smooth import SMOOTH


@dataclass
class Manner:
    """How a plain learner steps."""

    batch_size: int = 256
    steps: int = 10
    parts: int = 1
    clip: float = math.inf
    bf16: bool = False


class Plain:
    """One learner: SGD with momentum, cosine."""

    def __init__(self, data: Images, copy: int, manner: Manner | None = None) -> None:
        self.manner = manner or Manner()
        torch.manual_seed(randomness.key("weights", 0, "smooth", copy))
        self.model = SMOOTH.build(data.classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.data, self.digest = data, data.digest()
        self.train, _ = hold_out(data.train, 0.1, self.digest)

    def weight(self, name: str) -> Tensor:
        return self.model.get_parameter(f"{name}.weight")

    def matrix(self, name: str) -> Tensor:
        return self.weight(name).detach().clone().flatten(1)

    def write(self, name: str, matrix: Tensor) -> None:
        with torch.no_grad():
            self.weight(name).copy_(matrix.detach().view_as(self.weight(name)))

    def step(self, step: int) -> None:
        self.optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / self.manner.steps))
        self.optimizer.zero_grad()
        for images, labels in self.parts(step):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.manner.bf16):
                logits = self.model(images)
            loss = self.loss(logits, images, labels) / self.manner.parts
            loss.backward()
        if self.manner.clip < math.inf:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.manner.clip)
        self.optimizer.step()

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels)

    def parts(self, step: int) -> list[tuple[Tensor, Tensor]]:
        size = self.manner.batch_size
        epoch, position = divmod(step, len(self.train) // size)
        order = torch.randperm(len(self.train), generator=randomness.generator("order", 0, self.digest, epoch))
        picked = order[position * size : (position + 1) * size].chunk(self.manner.parts)
        return [(self.data.normalise(self.train.images[part]), self.train.labels[part]) for part in picked]

    def has_the_weights_of(self, model: nn.Module) -> bool:
        mine, others = self.model.state_dict(), model.state_dict()
        return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


class PlainAdapter:
    """An adapter with its AdamW, and the vector-Jacobian product written out."""

    def __init__(self, source: str, target: str, x: tuple[int, int], y: tuple[int, int], updates: int) -> None:
        torch.manual_seed(randomness.key("adapter", 0, source, target))
        self.module: Callable[[Tensor, Tensor], Tensor] = Lpka(width=16, heads=2, depth=1).build(x, y)
        parameters = list(self.module.parameters())  # type: ignore[attr-defined]
        self.parameters = parameters
        matrices = {"params": [p for p in parameters if p.dim() > 1]}
        vectors = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([matrices, vectors], lr=1e-2, weight_decay=5e-4)
        self.updates, self.total = 0, updates

    def learn(self, generated: Tensor, moved: Tensor) -> None:
        self.learn_from(generated, generated.detach() - moved)

    def learn_from(self, generated: Tensor, taught: Tensor) -> None:
        self.optimizer.zero_grad()
        generated.backward(taught)
        nn.utils.clip_grad_norm_(self.parameters, 50.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * self.updates / self.total))
        self.optimizer.step()
        self.updates += 1

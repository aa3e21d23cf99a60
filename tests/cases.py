"""Any two layers, a transfer between them with any options, and both at work: what properties are shown of."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mergenet import randomness
from mergenet.config import parse
from mergenet.method.adapter import COMBINATIONS
from mergenet.method.factorization import factor
from mergenet.method.options import TransferOptions
from mergenet.method.ports import find_port
from mergenet.method.sources import Live
from mergenet.method.transfer import Transfer
from mergenet.method.upkeep import Upkeep

Shape = tuple[int, ...]

KERNELS: list[Shape] = [(), (1, 1), (3, 3), (1, 5)]
"""Of a Linear and of three Conv2d."""


# --- what may be chosen ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Two layers and a transfer between them.

    Attributes:
        source: shape of its weight.
        target: shape of its weight.
        scale: of all weights, and of the steps in which they are trained.
        rank: of both layers' factors, where they have some.
        momentum: whether SGD with it trains the target, or else AdamW.
        options: of the transfer.
        steps: of the target in the whole run.
    """

    source: Shape
    target: Shape
    scale: float
    rank: int | None
    momentum: bool
    options: TransferOptions
    steps: int


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from(KERNELS)).map(lambda p: (p[0], p[1], *p[2]))
COMMON = {
    "combinations": st.sets(st.sampled_from(COMBINATIONS), min_size=1).map(sorted),
    "depth": st.integers(1, 3),
    "heads": st.sampled_from([1, 2]),
    "width": st.sampled_from([4, "tokens"]),
    "feed_forward": st.booleans(),
    "dropout": st.sampled_from([0.0, 0.3]),
}
GATED = st.fixed_dictionaries(
    {**COMMON, "mix": st.sampled_from(["learned", "average"]), "points": st.sampled_from([0, 1])}
)
PAPER = st.fixed_dictionaries(
    {**COMMON, "mix": st.sampled_from(["learned", "free", "average"]), "output_norm": st.booleans()}
).map(lambda options: {**options, "form": "paper"})
ADAPTERS = st.one_of(
    GATED.map(lambda options: {"lpka": options}),
    PAPER.map(lambda options: {"lpka": options}),
    st.integers(1, 6).map(lambda hidden: {"mlp": {"hidden": hidden}}),
)
LAYOUTS = st.sampled_from([{}, {"bias": True}, {"flattening": "kernel"}])
TIMES = st.fixed_dictionaries({"start": st.sampled_from([0.0, 0.25]), "stop": st.sampled_from([1.0, 0.5])})
ATTENDS = st.sampled_from(["A", "B", "both"])
LEARNS = st.sampled_from([{}, {"span": "cycle"}, {"update": "loss"}])
WRITES = st.fixed_dictionaries(
    {
        "match": st.sampled_from(["none", "rows", "norm", "moments"]),
        "blend": st.sampled_from([1.0, 0.3]),
        "optimizer_state": st.sampled_from(["keep", "reset", "rescale"]),
    }
)


@st.composite
def adapters(draw: st.DrawFn) -> dict[str, Any]:
    adapter = draw(ADAPTERS)
    lpka = adapter.get("lpka")
    if lpka and lpka["depth"] > 1:
        lpka = {**lpka, "carries": draw(st.sampled_from(["target", "both"]))}
    if lpka and lpka.get("form") == "paper" and lpka["feed_forward"]:
        lpka = {**lpka, "spectral_norm": draw(st.booleans())}
    return {"lpka": lpka} if lpka else adapter


def sides(shape: Shape, flattening: str = "outputs", bias: bool = False) -> tuple[int, int]:
    """Of the matrix that a layer makes."""
    out, into, height, width = (*shape, 1, 1)[:4]
    return (out * height, into * width) if flattening == "kernel" else (out, into * height * width + bias)


@st.composite
def cases(draw: st.DrawFn, cycles: tuple[int, ...] = (1, 2, 3, 50)) -> Case:
    source, target = draw(SHAPES), draw(SHAPES)
    layout = draw(LAYOUTS)
    kind = draw(st.sampled_from(["whole", "svd", "factored"]))
    layout = {} if kind == "factored" else layout
    rank = draw(st.integers(1, min(*sides(source, **layout), *sides(target, **layout))))
    encoding: dict[str, Any] = {
        "whole": {},
        "svd": {"rank": rank, "iterations": draw(st.integers(0, 2)), "attends": draw(ATTENDS | st.just("longer"))},
        "factored": {"attends": draw(ATTENDS)},
    }[kind]
    options = {
        "from": "source.layer",
        "to": "target.layer",
        "encoding": {kind: encoding},
        "adapter": draw(adapters()),
        "optimizer": {"adamw": {"lr": 1e-2}},
        **layout,
        "cycle": draw(st.sampled_from(cycles)),
        **draw(TIMES),
        **draw(LEARNS),
        **draw(WRITES),
    }
    return Case(
        source,
        target,
        scale=draw(st.sampled_from([1.0, 1e-6, 0.0])),
        rank=rank if kind == "factored" else None,
        momentum=draw(st.booleans()),
        options=parse(TransferOptions, options),
        steps=draw(st.integers(6, 12)),
    )


# --- at work -----------------------------------------------------------------------------------------------------


def layer_of(shape: Shape, case: Case) -> nn.ModuleDict:
    """A model of one layer, as the case has it."""
    out, into, *kernel = shape
    layer = nn.Conv2d(into, out, kernel) if kernel else nn.Linear(into, out)  # type: ignore[arg-type]
    model = nn.ModuleDict({"layer": layer})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if case.rank is not None:
        factor(model, {"layer": case.rank}, {})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(case.scale)
    return model


def optimizer_of(model: nn.Module, case: Case) -> torch.optim.Optimizer:
    rate = 0.05 * case.scale
    if case.momentum:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=rate)


class Rig:
    """Two layers, their optimizers and a transfer; random gradients stand for training."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        options = case.options
        self.models = nn.ModuleDict({"source": layer_of(case.source, case), "target": layer_of(case.target, case)})
        self.optimizers = {
            "source": torch.optim.SGD(self.models["source"].parameters(), lr=0.05 * case.scale),
            "target": optimizer_of(self.models["target"], case),
        }
        source, target = (
            find_port(dict(self.models[end].named_parameters()), "layer", {}, options.layout)  # type: ignore[union-attr]
            for end in ("source", "target")
        )
        policy = options.optimizer_state
        upkeep = Upkeep(None if policy == "keep" else (self.optimizers["target"], policy))
        self.transfer = Transfer(options, Live(source), target, case.steps, seed=0, upkeep=upkeep)

    def write(self, step: int) -> bool:
        """Reads and writes if a transfer is due; whether it was."""
        due = self.transfer.due(step)
        if due:
            self.transfer.read(step)
            self.transfer.write()
        return due

    def train(self, step: int) -> None:
        for name, parameter in self.models.named_parameters():
            draw = randomness.generator("training", name, step)
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        for optimizer in self.optimizers.values():
            optimizer.step()

    def learn(self, step: int) -> bool:
        """Updates the adapter if a span ends; whether it did."""
        ends = self.transfer.ends(step)
        if ends:
            self.transfer.learn()
        return ends

    def ticks(self, steps: range) -> "Rig":
        for step in steps:
            self.write(step)
            self.train(step)
            self.learn(step)
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.models.named_parameters()}

    def state(self) -> dict[str, Any]:
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"models": self.models.state_dict(), "optimizers": optimizers, "transfer": self.transfer.state_dict()}

    def load(self, state: dict[str, Any]) -> "Rig":
        self.models.load_state_dict(state["models"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.transfer.load_state_dict(state["transfer"])
        return self

"""What a transfer may be: every point that the paper leaves open, with its default."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mergenet.config import Neutral, Options
from mergenet.method.adapter import Adapter, Lpka
from mergenet.method.encoding import Encoding, Factored, Svd
from mergenet.method.layout import Flattening, Layout
from mergenet.method.matching import Match
from mergenet.method.sources import Control
from mergenet.method.upkeep import Policy
from mergenet.optimization import AdamW, Cosine, Optimizer, Schedule, Share

T = TypeVar("T")


class TransferOptions(Options):
    """A transfer from a port of one learner to a port of another (Eq. 1 and 7).

    Attributes:
        source: `learner.port` where it reads.
        target: `learner.port` where it writes.
        flattening: of a convolution's kernel, `outputs` (out, in * height * width), or `kernel` (out * height,
            in * width), as the authors' low-rank convolution has it.
        bias: both layers' biases take part, as the last columns of their matrices (the authors' hyper_module.py).
        control: what stands in the source's place: `random` (another initialisation of its model), `shuffled` (its
            entries in a fresh order each time), `initial` (as it began), `own` (the target's own matrix at `to`).
        encoding: what of the two matrices takes part.
        adapter: what generates the new matrix.
        match: what the generated matrix takes over of the scale of the target's: nothing, the norm of each of its
            `rows`, the `norm` of the whole, or its `moments`, mean and deviation.
        blend: how much of the way from the target's weight to the generated one is gone.
        optimizer_state: what becomes of the momentum that the target's optimizer has of the written weight.
        batchnorm: what becomes of the running statistics right behind it. Both: `keep`, `reset`, or `rescale` by how
            much longer each row has become.
        turn: transfers of one turn all read before any of them writes; a later turn sees what an earlier one wrote.
        cycle: steps of the target from one transfer to the next (the paper's best: 4).
        start: share of the run before the first transfer.
        stop: share of the run after which there is none.
        span: the movement the adapter learns from: that of one `step` (the authors' code), or of the
            whole `cycle` (the paper's text).
        update: what the adapter learns from: the `delta` between what it wrote and where training moved it (the paper),
            or the gradient of the target's own `loss` there, which the paper does not compare with.
        optimizer: of the adapter; biases, norms and gates are not decayed (the authors' code). The small
            default rate keeps AdamW's first steps, whose size is the rate and not the movement, harmless.
        schedule: of the adapter's rate over its own updates.
        clip: the norm the adapter's gradient is clipped to (the authors' code: 50).
        enabled: false trains the target without the transfer, everything else equal.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    control: Annotated[Control, Neutral("none")] = "none"
    flattening: Annotated[Flattening, Neutral("outputs")] = "outputs"
    bias: Annotated[bool, Neutral(False)] = False
    encoding: Encoding = Svd()
    adapter: Adapter = Lpka()
    match: Annotated[Match, Neutral("none")] = "none"
    blend: Annotated[float, Field(gt=0.0, le=1.0), Neutral(1.0)] = 1.0
    optimizer_state: Annotated[Policy, Neutral("keep")] = "keep"
    batchnorm: Annotated[Policy, Neutral("keep")] = "keep"
    turn: Annotated[NonNegativeInt, Neutral(0)] = 0
    cycle: PositiveInt = 4
    start: Share = 0.0
    stop: Share = 1.0
    span: Literal["step", "cycle"] = "step"
    update: Annotated[Literal["delta", "loss"], Neutral("delta")] = "delta"
    optimizer: Optimizer = AdamW(lr=1e-4)
    schedule: Schedule = Cosine()
    clip: PositiveFloat = 50.0
    enabled: bool = True

    def changes(self) -> list[str]:
        """The ends whose learners it has an influence on."""
        return [self.target]

    def reads(self) -> list[str]:
        """The ends whose learners it takes something from."""
        return [self.source]

    @property
    def layout(self) -> Layout:
        """How the tensors of either layer make the matrix that takes part."""
        return self.encoding.layout(self.flattening, self.bias)

    def is_due(self, step: int, steps: int | None) -> bool:
        """Whether a transfer comes before the target's `step`, counted from 0, of `steps` (None: of any number)."""
        within = steps is None or self.start <= step / steps < self.stop
        return step > 0 and step % self.cycle == 0 and within

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} is not before stop {self.stop}")
        if self.update == "loss" and self.span == "cycle":
            raise ValueError("update 'loss' is the gradient of the one step after a transfer; leave span 'cycle' out")
        if self.bias and self.flattening == "kernel":
            raise ValueError(
                "bias: one a row, and flattening 'kernel' has several rows an output; leave one of them out"
            )
        if isinstance(self.encoding, Factored) and self.batchnorm != "keep":
            raise ValueError("batchnorm: a factor has no outputs of its own; leave it at 'keep'")
        self.encoding.layout(self.flattening, self.bias)  # refuses what it cannot lay out
        return self


def by_turn(transfers: Iterable[T], options_of: Callable[[T], TransferOptions]) -> list[list[T]]:
    """Transfers that read the same moment together, in the order in which their turns follow each other."""

    def turn(transfer: T) -> int:
        return options_of(transfer).turn

    return [list(together) for _, together in groupby(sorted(transfers, key=turn), key=turn)]

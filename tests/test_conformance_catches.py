"""The suites catch adapters and encodings that do not hold what they must, each by the claim that it breaks."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mergenet.config import InputError, Options
from mergenet.conformance import AdapterConformance, EncodingConformance
from mergenet.method.encoding import Encoder, SvdEncoder
from mergenet.method.layout import Dense, Layout

Size = tuple[int, int]


def broken(suite: type) -> set[str]:
    """The claims of a suite that fail."""
    return {name for name in dir(suite) if name.startswith("test_") and not holds(getattr(suite(), name))}


def holds(claim: Callable[[], None]) -> bool:
    try:
        claim()
    except Exception:
        return False
    return True


# --- adapters ----------------------------------------------------------------------------------------------------


class Right(nn.Module):
    """X plus what two linear maps make of Y."""

    def __init__(self, x: Size, y: Size) -> None:
        super().__init__()
        self.along, self.across = nn.Linear(y[1], x[1]), nn.Linear(y[0], x[0])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(y)

    def change(self, y: Tensor) -> Tensor:
        return self.across(self.along(y).T).T


class Transposed(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y).T


class OfOneRow(Right):
    """Broadcasting hides a size that is too small."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y)[:1]


class InUnitsOfItself(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(y / y.norm())


class Overflowing(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(y).exp()


class OfInfiniteGradient(Right):
    """sqrt(0) is finite, and its slope is not."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(y) + (y @ self.along.weight.T).square().sum().sqrt()


class InDoubles(Right):
    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        self.double()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y.double()).to(x.dtype)


class GivingDoubles(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y).double()


class OnTheDefaultDevice(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) + torch.ones(x.shape)


class DrawnByPython(Right):
    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        nn.init.constant_(self.along.bias, random.random())


class OnTheProcessorAlone(Right):
    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        self.along.bias = nn.Parameter(torch.zeros(x[1], device="cpu"))


class NoisyByPython(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + random.random() * self.change(y)


class Counting(Right):
    calls = 0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return x + self.change(y) / self.calls


class ForgettingACheckpoint(Right):
    """Restored by hand it generates again; a state dict is without it."""

    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return x + self.change(y) / self.calls.clone()


class WithAnIdleParameter(Right):
    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        self.idle = nn.Parameter(torch.ones(3))


class OfTwoZeros(Right):
    """No gradient reaches either factor."""

    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        nn.init.zeros_(self.across.weight)
        nn.init.zeros_(self.across.bias)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.gate * self.change(y)


class Untrained(Right):
    def __init__(self, x: Size, y: Size) -> None:
        super().__init__(x, y)
        self.requires_grad_(False)


class ChangingX(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.add_(self.change(y))


class ChangingY(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(y.sub_(y.mean()))


class DeafToTheSource(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.change(torch.ones_like(y))


class Overwriting(Right):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.change(y)


WRONG_ADAPTERS: dict[type[nn.Module], str] = {
    Transposed: "test_generates_a_matrix_of_the_targets_size",
    OfOneRow: "test_generates_a_matrix_of_the_targets_size",
    InUnitsOfItself: "test_stays_finite_for_small_and_large_weights",
    Overflowing: "test_stays_finite_for_small_and_large_weights",
    OfInfiniteGradient: "test_stays_finite_for_small_and_large_weights",
    InDoubles: "test_works_in_fp32",
    GivingDoubles: "test_works_in_fp32",
    OnTheDefaultDevice: "test_stays_on_the_device_of_its_inputs",
    DrawnByPython: "test_begins_the_same_for_the_same_seed",
    OnTheProcessorAlone: "test_is_planned_without_memory",
    NoisyByPython: "test_generates_again_bit_for_bit",
    Counting: "test_generates_again_bit_for_bit",
    ForgettingACheckpoint: "test_its_state_dict_holds_all_its_state",
    WithAnIdleParameter: "test_every_parameter_learns",
    OfTwoZeros: "test_every_parameter_learns",
    Untrained: "test_every_parameter_learns",
    ChangingX: "test_leaves_its_inputs_as_they_are",
    ChangingY: "test_leaves_its_inputs_as_they_are",
    DeafToTheSource: "test_reads_the_source",
    Overwriting: "test_reads_the_target_or_overwrites_it_as_it_says",
}


def suite_of(module: type[nn.Module], **claims: Any) -> type[AdapterConformance]:
    class Adapter(Options):
        def build(self, x: Size, y: Size) -> nn.Module:
            return module(x, y)

    return type("Suite", (AdapterConformance,), {"options": Adapter(), **claims})


def test_a_right_adapter_and_a_right_encoder_hold_every_claim() -> None:
    assert broken(suite_of(Right)) == broken(encoding_suite(Upright)) == set()


@pytest.mark.parametrize("module", WRONG_ADAPTERS, ids=lambda module: module.__name__)
def test_a_wrong_adapter_is_caught_by_the_claim_it_breaks(module: type[nn.Module]) -> None:
    assert WRONG_ADAPTERS[module] in broken(suite_of(module))


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ({"starts_as_identity": True}, "test_starts_as_the_identity_if_it_says_so"),
        ({"ignores_source_order": ("rows",)}, "test_ignores_the_order_of_the_source_if_it_says_so"),
        ({"ignores_source_order": ("columns",)}, "test_ignores_the_order_of_the_source_if_it_says_so"),
        ({"reads_target": False}, "test_reads_the_target_or_overwrites_it_as_it_says"),
    ],
)
def test_a_claim_that_is_made_is_held_to(claim: dict[str, Any], name: str) -> None:
    assert broken(suite_of(Right, **claim)) == {name}


def test_options_that_are_not_read_back_are_caught() -> None:
    class Forgetting(Options):
        size: int = 3

        def build(self, x: Size, y: Size) -> nn.Module:
            return Right(x, y)

        def dump(self) -> dict[str, Any]:
            return {}

    class Plain:
        def build(self, x: Size, y: Size) -> nn.Module:
            return Right(x, y)

    for options in (Forgetting(size=4), Plain()):
        suite = type("Suite", (AdapterConformance,), {"options": options})
        assert broken(suite) == {READ_BACK}


# --- encodings ---------------------------------------------------------------------------------------------------


class Upright(SvdEncoder):
    """A base that is right, made as `attends: A` is."""

    def __init__(self, shape: Size) -> None:
        super().__init__(shape, rank=2, iterations=1, across_columns=False)


class SayingItsTranspose(Upright):
    def shape(self) -> Size:
        return super().shape()[::-1]


class ForgettingTheRest(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return self._known_basis() @ encoded


class Overshooting(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return weight + 2 * (super().decode(weight, encoded) - weight)


class Spilling(Upright):
    """Changes what it does not encode."""

    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        change = super().decode(weight, encoded) - weight
        return weight + change + change.sum() * (weight - self._known_basis() @ self.encode(weight)).square()


class Unwritten(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return weight + 0.0 * super().decode(weight, encoded)


class Infinite(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        changed = super().decode(weight, encoded)
        return changed if torch.equal(changed, weight) else changed / 0.0


class Detached(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return super().decode(weight, encoded).detach()


class HalfDetached(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        half = 0.5 * encoded
        return super().decode(weight, half + half.detach())


class TurningAsItEncodes(Upright):
    def encode(self, weight: Tensor) -> Tensor:
        encoded = super().encode(weight)
        self._basis = self._known_basis() * (1.0 if weight.requires_grad else 0.999)
        return encoded


class Unsaved(Upright):
    def state_dict(self) -> dict[str, Tensor]:
        return {}


class SavedInPart(Upright):
    """What it encodes is restored; how it goes on is not."""

    refreshed = 0

    def refresh(self, weight: Tensor) -> None:
        super().refresh(weight)
        self.refreshed += 1
        self._basis = self._known_basis() * (1 + 0.01 * self.refreshed)

    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        basis = self._known_basis()
        return weight + basis @ (encoded - self.encode(weight)) / basis[:, 0].square().sum()


class FlippingSigns(Upright):
    """The first call finds a basis, each later one turns it round."""

    def refresh(self, weight: Tensor) -> None:
        known = self._basis is not None
        super().refresh(weight)
        if known:
            self._basis = -self._known_basis()


class Afresh(Upright):
    """A decomposition of its own at each transfer."""

    def refresh(self, weight: Tensor) -> None:
        self._basis = None
        super().refresh(weight)


class ChangingTheWeight(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return weight.copy_(super().decode(weight, encoded))


class ChangingTheWeightAsItLooks(Upright):
    def refresh(self, weight: Tensor) -> None:
        super().refresh(weight)
        weight.mul_(2.0)


class OnTheDefault(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return super().decode(weight, encoded) + torch.zeros(weight.shape, dtype=weight.dtype)


class InSingles(Upright):
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return super().decode(weight, encoded).float()


FIXED = "test_stays_fixed_until_the_next_refresh"
LEARNED = "test_is_learned_through"
KEPT = "test_what_is_written_is_read_and_the_rest_is_kept"
STATE = "test_its_state_restores_it"
UNCHANGED = "test_an_unchanged_encoding_writes_nothing"
LAYOUT = "test_its_layout_reads_and_writes_a_layer"
READ_BACK = "test_its_options_are_read_back_as_they_were_written"
WRITTEN = "test_a_change_of_the_encoding_is_written"

WRONG_ENCODERS: dict[type[Encoder], str] = {
    SayingItsTranspose: "test_encodes_into_the_shape_that_it_says",
    ForgettingTheRest: UNCHANGED,
    Overshooting: KEPT,
    Spilling: KEPT,
    Unwritten: WRITTEN,
    Infinite: WRITTEN,
    Detached: LEARNED,
    HalfDetached: LEARNED,
    TurningAsItEncodes: FIXED,
    Unsaved: STATE,
    SavedInPart: STATE,
    FlippingSigns: "test_follows_a_weight_that_moves_a_little",
    Afresh: "test_follows_a_weight_that_moves_a_little",
    ChangingTheWeight: "test_leaves_the_weight_as_it_is",
    ChangingTheWeightAsItLooks: "test_leaves_the_weight_as_it_is",
    OnTheDefault: "test_stays_on_the_device_of_the_weight",
    InSingles: LEARNED,
}


def encoding_suite(
    encoder: type[Encoder] = Upright, layout: Callable[..., Layout] = Dense, least: int = 2
) -> type[EncodingConformance]:
    make_layout = layout

    class Encoding(Options):
        def layout(self, flattening: str, bias: bool) -> Layout:
            return make_layout(flattening, bias)

        def build(self, shape: Size) -> Encoder:
            if min(shape) < least:
                raise InputError(f"less than {least}")
            return encoder(shape)  # type: ignore[call-arg]

    claims = {"shapes": ((6, 10), (10, 6), (8, 8)), "refuses": ((1, 5),)}
    return type("Suite", (EncodingConformance,), {"options": Encoding(), **claims})


@pytest.mark.parametrize("encoder", WRONG_ENCODERS, ids=lambda encoder: encoder.__name__)
def test_a_wrong_encoder_is_caught_by_the_claim_it_breaks(encoder: type[Encoder]) -> None:
    assert WRONG_ENCODERS[encoder] in broken(encoding_suite(encoder))


class Reversing(Dense):
    def join(self, tensors: Any) -> Tensor:
        return super().join(tensors).flip(0)


class NoValue(Dense):
    __hash__ = None  # type: ignore[assignment]


class OneOfItsKind(Dense):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@pytest.mark.parametrize("layout", [Reversing, NoValue, OneOfItsKind])
def test_a_wrong_layout_is_caught(layout: type[Dense]) -> None:
    assert broken(encoding_suite(layout=layout)) == {LAYOUT}


def test_a_layout_that_refuses_everything_is_caught() -> None:
    def refusing(flattening: str, bias: bool) -> Dense:
        raise ValueError("none")

    assert broken(encoding_suite(layout=refusing)) == {LAYOUT}


class RefusingInItsOwnWay(Upright):
    def __init__(self, shape: Size) -> None:
        super().__init__(shape)
        if min(shape) < 2:
            raise ValueError("rank")


@pytest.mark.parametrize("encoder", [Upright, RefusingInItsOwnWay])
def test_what_is_not_refused_or_not_by_an_input_error_is_caught(encoder: type[Encoder]) -> None:
    assert broken(encoding_suite(encoder, least=1)) == {"test_refuses_in_one_line_what_it_cannot_encode"}


def test_an_encoding_that_refuses_every_shape_does_not_pass() -> None:
    suite = encoding_suite(least=100)
    without_weights = {LAYOUT, "test_refuses_in_one_line_what_it_cannot_encode", READ_BACK}
    assert broken(suite) == {name for name in dir(suite) if name.startswith("test_")} - without_weights

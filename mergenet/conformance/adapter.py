"""What an adapter must hold: deterministic, finite, alive, and all of its state in its state dict."""

from collections.abc import Iterator
from itertools import product
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.conformance.common import SCALES, OptionsConformance, Size, draw, through_checkpoint

X, Y = (5, 9), (7, 12)
SIZES: tuple[tuple[Size, Size], ...] = (
    ((5, 9), (12, 20)),
    ((9, 5), (3, 2)),
    ((6, 6), (6, 6)),
    ((1, 6), (7, 1)),
    ((6, 1), (1, 7)),
)
"""Of target and source: wide, tall, square, one row, one column; beside a larger, a smaller and an equal one."""
UPDATES = 5
"""Within which every parameter has learned: where several gates stand at zero in a row, each takes one to open."""


class AdapterOptions(Protocol):
    """Options that build an adapter."""

    def build(self, x: Size, y: Size) -> nn.Module:
        """An adapter for a target's matrix of size `x` and a source's of size `y`."""


class AdapterConformance(OptionsConformance):
    """Inherit from it, and pytest runs every claim on your adapter.

    Attributes:
        options: what builds the adapter.
        starts_as_identity: a claim to make: until it has learned, it generates the target's own matrix bit for bit.
        ignores_source_order: a claim to make: the axes of the source's matrix whose order changes nothing.
        reads_target: whether what is generated depends on the target's matrix; one that does not overwrites it.
    """

    options: AdapterOptions
    starts_as_identity: bool = False
    ignores_source_order: tuple[Literal["rows", "columns"], ...] = ()
    reads_target: bool = True

    def test_generates_a_matrix_of_the_targets_size(self) -> None:
        """Whatever the source's size."""
        for x, y in SIZES:
            generated = _generate(self._moved(x, y), draw(x), draw(y))
            assert tuple(generated.shape) == x, f"{tuple(generated.shape)} from X {x} and Y {y}; it must be {x}"

    def test_stays_finite_for_small_and_large_weights(self) -> None:
        """What it generates, and its gradients: a transfer that meets NaN or infinity stops for good."""
        for of_target, of_source in product(SCALES, SCALES):
            at = f"at weights of scale {of_target} (target) and {of_source} (source)"
            for adapter in (self._built(X, Y), self._moved(X, Y)):
                generated = _generate(adapter, draw(X, scale=of_target), draw(Y, scale=of_source))
                assert generated.isfinite().all(), f"not finite {at}; bound whatever you divide by from below"
                for name, gradient in _gradients(adapter, generated, draw(X, "taught")).items():
                    assert gradient.isfinite().all(), f"the gradient of {name} is not finite {at}"

    def test_works_in_fp32(self) -> None:
        """Whatever the precision of the learners."""
        adapter = self._moved(X, Y)
        for name, parameter in adapter.named_parameters():
            assert parameter.dtype == torch.float32, f"{name} is {parameter.dtype}; it must be torch.float32"
        generated = _generate(adapter, draw(X), draw(Y))
        assert generated.dtype == torch.float32, f"{generated.dtype} from torch.float32; keep what comes in"

    def test_stays_on_the_device_of_its_inputs(self) -> None:
        """Tried without an accelerator: whatever is made without a device lands on another one here."""
        adapter, x, y = self._moved(X, Y), draw(X), draw(Y)
        with torch.device("meta"):
            generated = adapter(x, y)
        assert generated.device == x.device, "makes tensors on torch's default device; give them `device=x.device`"

    def test_begins_the_same_for_the_same_seed(self) -> None:
        """Its initial weights come from torch's generator alone, which the run seeds: ranks must agree."""
        one, other = (self._built(X, Y).state_dict() for _ in range(2))
        for name, value in one.items():
            assert torch.equal(value, other[name]), f"{name} differs at an equal seed; draw it by torch's own functions"

    def test_is_planned_without_memory(self) -> None:
        """A plan builds it on the meta device, to count its parameters."""
        with torch.device("meta"):
            planned = dict(self.options.build(X, Y).named_parameters())
        built = dict(self._built(X, Y).named_parameters())
        for name, parameter in planned.items():
            assert parameter.is_meta, f"{name} is made on {parameter.device} whatever device is asked for"
        shapes = [{name: tuple(one.shape) for name, one in parameters.items()} for parameters in (planned, built)]
        assert shapes[0] == shapes[1], f"on the meta device its parameters are {shapes[0]}, else {shapes[1]}"

    def test_generates_again_bit_for_bit(self) -> None:
        """At the same seed, once its buffers are as they were: `learn` generates anew what `write` has written."""
        adapter = self._moved(X, Y)
        memory = {name: buffer.clone() for name, buffer in adapter.named_buffers()}
        first = _generate(adapter, draw(X), draw(Y))
        _generate(adapter, draw(X, "other"), draw(Y, "other"), step=1)
        for name, buffer in adapter.named_buffers():
            buffer.copy_(memory[name])
        again = _generate(adapter, draw(X), draw(Y))
        assert torch.equal(first, again), (
            "generates something else the second time; keep what it remembers in buffers, draw by torch's own functions"
        )

    def test_its_state_dict_holds_all_its_state(self) -> None:
        """A run that is stopped and resumed goes on bit for bit."""
        adapter, resumed = self._moved(X, Y), self._built(X, Y, seed=1)
        for step in range(3):
            _generate(adapter, draw(X, str(step)), draw(Y, str(step)), step)
        resumed.load_state_dict(through_checkpoint(adapter.state_dict()))
        goes_on, went_on = (_generate(module, draw(X), draw(Y), step=3) for module in (adapter, resumed))
        assert torch.equal(goes_on, went_on), (
            "generates something else from its loaded state; keep what it remembers in persistent buffers"
        )

    def test_every_parameter_learns(self) -> None:
        """A gate at zero may keep others waiting for an update; two of them in one branch do so for ever."""
        adapter = self._built(X, Y)
        learning = dict(_trained(adapter))
        assert learning, "has no trainable parameter; a transfer has nothing to learn"
        optimizer = torch.optim.AdamW(learning.values(), lr=1e-2)
        dead = set(learning)
        for step in range(UPDATES):
            generated = _generate(adapter, draw(X), draw(Y), step)
            gradients = _gradients(adapter, generated, generated.detach() - draw(X, "goal"))
            for name, gradient in gradients.items():
                assert gradient.isfinite().all(), f"the gradient of {name} is not finite in update {step + 1}"
                learning[name].grad = gradient
            dead -= {name for name, gradient in gradients.items() if gradient.any()}
            optimizer.step()
        assert not dead, f"no gradient in {UPDATES} updates: {', '.join(sorted(dead))}; use them or leave them out"

    def test_leaves_its_inputs_as_they_are(self) -> None:
        """They are what a transfer has read, and are generated from again."""
        x, y = draw(X), draw(Y)
        adapter = self._moved(X, Y)
        _gradients(adapter, _generate(adapter, x, y), draw(X, "taught"))
        assert torch.equal(x, draw(X)), "changes X in place; work on a copy"
        assert torch.equal(y, draw(Y)), "changes Y in place; work on a copy"

    def test_reads_the_source(self) -> None:
        """Else nothing is transferred."""
        adapter = self._moved(X, Y).eval()
        one, other = (_generate(adapter, draw(X), draw(Y, name)) for name in ("", "other"))
        assert not torch.equal(one, other), "generates the same from two different sources; let Y enter"

    def test_reads_the_target_or_overwrites_it_as_it_says(self) -> None:
        """`reads_target` says which."""
        adapter = self._moved(X, Y).eval()
        one, other = (_generate(adapter, draw(X, name), draw(Y)) for name in ("", "other"))
        reads = not torch.equal(one, other)
        assert reads == self.reads_target, f"reads_target is {self.reads_target}, and two targets give " + (
            "two matrices" if reads else "one matrix"
        )

    def test_starts_as_the_identity_if_it_says_so(self) -> None:
        """`starts_as_identity` says so."""
        for x, y in SIZES if self.starts_as_identity else ():
            generated = _generate(self._built(x, y), draw(x), draw(y))
            assert torch.equal(generated, draw(x)), f"changes X {x} before it has learned; start its gate at zero"

    def test_ignores_the_order_of_the_source_if_it_says_so(self) -> None:
        """`ignores_source_order` says along which axes."""
        adapter = self._moved(X, Y).eval()
        for axis in self.ignores_source_order:
            reversed_source = draw(Y).flip(("rows", "columns").index(axis))
            one, other = (_generate(adapter, draw(X), source) for source in (draw(Y), reversed_source))
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), f"the order of the source's {axis} matters"

    def _built(self, x: Size, y: Size, seed: int = 0) -> nn.Module:
        """An adapter as a run begins with it."""
        with randomness.seeded("conformance adapter", seed):
            return self.options.build(x, y)

    def _moved(self, x: Size, y: Size) -> nn.Module:
        """An adapter whose every trained parameter has moved, so that no zero of the start hides a term."""
        adapter = self._built(x, y)
        with torch.no_grad(), randomness.seeded("conformance movement"):
            for _, parameter in _trained(adapter):
                parameter.add_(0.1 * torch.randn_like(parameter))
        return adapter


def _trained(adapter: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in adapter.named_parameters() if parameter.requires_grad)


def _generate(adapter: nn.Module, x: Tensor, y: Tensor, step: int = 0) -> Tensor:
    """As a transfer does: torch's random state keyed by the step."""
    with randomness.seeded("conformance dropout", step):
        return adapter(x, y)


def _gradients(adapter: nn.Module, generated: Tensor, taught: Tensor) -> dict[str, Tensor]:
    """Name -> gradient of each trained parameter, by the vector-Jacobian product with `taught`."""
    assert generated.requires_grad, "what it generates has no graph to learn through; do not detach it"
    trained = dict(_trained(adapter))
    gradients = torch.autograd.grad(generated, list(trained.values()), taught, materialize_grads=True)
    return dict(zip(trained, gradients, strict=True))

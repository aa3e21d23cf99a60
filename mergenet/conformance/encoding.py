"""What an encoding must hold: it writes back what it read, is learned through, and follows the weight."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.config import InputError
from mergenet.conformance.common import SCALES, OptionsConformance, Size, draw, through_checkpoint
from mergenet.method.encoding import Encoder
from mergenet.method.layout import Flattening, Layout
from mergenet.method.ports import find_port

SHAPES: tuple[Size, ...] = ((6, 10), (10, 6), (8, 8), (1, 7), (7, 1))
LAYOUTS: tuple[tuple[Flattening, bool], ...] = (("outputs", False), ("outputs", True), ("kernel", False))
MOVEMENTS = 10
MOVED = 0.01  # of a weight from one transfer to the next, in units of its own norm
FOLLOWED = 0.1  # of its encoding; one direction of a hundred that changes its sign makes 2 / sqrt(100)


class EncodingOptions(Protocol):
    """Options that build an encoder."""

    def build(self, shape: Size) -> Encoder:
        """An encoder for matrices of `shape`."""

    def layout(self, flattening: Flattening, bias: bool) -> Layout:
        """What the layer's tensors are to this encoding."""


class EncodingConformance(OptionsConformance):
    """Inherit from it, and pytest runs every claim on your encoding.

    Attributes:
        options: what builds the encoder.
        shapes: of weights to try; those that it refuses are left out, but not all of them.
        refuses: shapes that it must refuse, such as those that have no such rank.
        projects: whether any encoded matrix can be written and is then read back, and the way back leads to the weight
            one came from. An encoding by several factors has more numbers than what it writes, and does not.
        doubles: whether it works in float64 too, in which gradients are checked against differences.
    """

    options: EncodingOptions
    shapes: tuple[Size, ...] = SHAPES
    refuses: tuple[Size, ...] = ()
    projects: bool = True
    doubles: bool = True

    def layer(self) -> nn.Module:
        """A layer that has what the encoding reads."""
        return nn.Conv2d(4, 6, (3, 2))

    def test_encodes_into_the_shape_that_it_says(self) -> None:
        """The adapter is built for `shape()`."""
        for weight, encoder in self._refreshed():
            encoded = tuple(encoder.encode(weight).shape)
            assert encoded == encoder.shape(), f"{encoded} of {tuple(weight.shape)}, and shape() says {encoder.shape()}"

    def test_an_unchanged_encoding_writes_nothing(self) -> None:
        """Bit for bit: decode(W, encode(W)) is W, whatever of W is not encoded."""
        for scale in (1.0, *SCALES):
            for weight, encoder in self._refreshed(scale):
                written = encoder.decode(weight, encoder.encode(weight))
                assert torch.equal(written, weight), (
                    f"an unchanged encoding changes a weight {tuple(weight.shape)} of scale {scale}; "
                    "write W plus what the change of the encoding makes"
                )

    def test_what_is_written_is_read_and_the_rest_is_kept(self) -> None:
        """Of an encoding that projects: encode(decode(W, A')) is A', and from there the old A leads back to W."""
        for weight, encoder in self._refreshed() if self.projects else ():
            encoded = encoder.encode(weight)
            wanted = encoded + draw(encoder.shape(), "change")
            written = encoder.decode(weight, wanted)
            message = f"{{}} at {tuple(weight.shape)}; if it is to be so, say `projects = False`"
            assert _near(encoder.encode(written), wanted), message.format("what was written is not read back")
            assert _near(encoder.decode(written, encoded), weight), message.format("what is not encoded changes")

    def test_a_change_of_the_encoding_is_written(self) -> None:
        """And is finite."""
        for weight, encoder in self._refreshed():
            written = encoder.decode(weight, encoder.encode(weight) + draw(encoder.shape(), "change"))
            assert written.shape == weight.shape, f"{tuple(written.shape)} in the place of {tuple(weight.shape)}"
            assert written.isfinite().all(), f"what is written at {tuple(weight.shape)} is not finite"
            assert not torch.equal(written, weight), f"a change is not written at {tuple(weight.shape)}"

    def test_is_learned_through(self) -> None:
        """`decode` is differentiable in the encoded matrix, as its differences say."""
        for weight, encoder in self._refreshed(double=self.doubles):
            encoded = (encoder.encode(weight) + draw(encoder.shape(), "change").to(weight)).requires_grad_()
            written = encoder.decode(weight, encoded)
            assert written.requires_grad, "decode has no graph to the encoded matrix; do not detach it"
            (gradient,) = torch.autograd.grad(written, encoded, torch.ones_like(written))
            assert gradient.isfinite().all(), f"the gradient through decode at {tuple(weight.shape)} is not finite"
            if self.doubles:
                _check_gradient(encoder, weight, encoded)

    def test_stays_fixed_until_the_next_refresh(self) -> None:
        """A movement of the weight is pulled back through the same encoder that wrote it."""
        for weight, encoder in self._refreshed():
            before = encoder.encode(weight).clone()
            other = draw((len(weight), weight.shape[1]), "other")
            encoder.decode(other, encoder.encode(other) + 1.0)
            assert torch.equal(encoder.encode(weight), before), "encode or decode changes the encoder; only refresh may"

    def test_its_state_restores_it(self) -> None:
        """A run that is stopped and resumed goes on bit for bit, refreshes too."""
        for weight, encoder in self._refreshed():
            encoder.refresh(_moved(weight, 1))
            resumed = self.options.build((len(weight), weight.shape[1]))
            resumed.load_state_dict(through_checkpoint(resumed.state_dict()))  # before its first refresh
            resumed.load_state_dict(through_checkpoint(encoder.state_dict()))
            assert torch.equal(resumed.encode(weight), encoder.encode(weight)), "its state does not restore it"
            for one in (resumed, encoder):
                one.refresh(_moved(weight, 2))
            assert torch.equal(resumed.encode(weight), encoder.encode(weight)), "from its state it does not go on alike"

    def test_follows_a_weight_that_moves_a_little(self) -> None:
        """The adapter must see no jump where the weight made none: no change of signs or of order."""
        for weight, encoder in self._refreshed():
            before = encoder.encode(weight).clone()
            for movement in range(MOVEMENTS):
                weight = _moved(weight, movement)
                encoder.refresh(weight)
                after = encoder.encode(weight).clone()
                jump = float((after - before).norm() / before.norm())
                assert jump < FOLLOWED, (
                    f"a weight {tuple(weight.shape)} moves by {MOVED:.0%} and its encoding by {jump:.0%}; "
                    "let refresh follow from the last encoder, its signs too"
                )
                before = after

    def test_leaves_the_weight_as_it_is(self) -> None:
        """What a transfer has read is encoded again when its adapter learns."""
        for weight, encoder in self._refreshed():
            before, encoded = weight.clone(), draw(encoder.shape(), "change")
            encoder.refresh(weight)
            encoder.encode(weight)
            encoder.decode(weight, encoded)
            assert torch.equal(weight, before), "changes the weight in place; work on a copy"
            assert torch.equal(encoded, draw(encoder.shape(), "change")), "decode changes the encoded matrix in place"

    def test_stays_on_the_device_of_the_weight(self) -> None:
        """Tried without an accelerator: whatever is made without a device lands on another one here."""
        for weight, encoder in self._refreshed():
            change = draw(encoder.shape(), "change")
            with torch.device("meta"):
                encoder.refresh(weight)
                written = encoder.decode(weight, encoder.encode(weight) + change)
            assert written.device == weight.device, "makes tensors on torch's default device; give them the weight's"
            assert written.dtype == weight.dtype, f"{written.dtype} of {weight.dtype}; keep what comes in"

    def test_refuses_in_one_line_what_it_cannot_encode(self) -> None:
        """By `InputError`, when it is built."""
        for shape in self.refuses:
            try:
                self.options.build(shape)
            except InputError:
                continue
            raise AssertionError(f"takes {shape}, which it is said to refuse; raise InputError in `build`")

    def test_its_layout_reads_and_writes_a_layer(self) -> None:
        """Each layout that it does not refuse by `ValueError`; two of them made alike are one."""
        refused = 0
        for flattening, bias in LAYOUTS:
            try:
                layout = self.options.layout(flattening, bias)
            except ValueError:
                refused += 1
                continue
            alike = self.options.layout(flattening, bias)
            assert hash(layout) == hash(alike) and layout == alike, "a layout is a value; make it a frozen dataclass"
            port = find_port(_parameters(self.layer()), "layer", {}, layout)
            matrix = draw(port.shape, "layer")
            port.write(matrix)
            assert torch.equal(port.read(), matrix), f"{layout} does not read back what it wrote"
        assert refused < len(LAYOUTS), "refuses every layout; it must take one"

    def _refreshed(self, scale: float = 1.0, double: bool = False) -> list[tuple[Tensor, Encoder]]:
        """Weights, and encoders that have seen them."""
        seen = []
        for shape in self.shapes:
            try:
                encoder = self.options.build(shape)
            except InputError:  # a rank may be above what a small matrix has
                continue
            weight = draw(shape, scale=scale)
            weight = weight.double() if double else weight
            encoder.refresh(weight)
            seen.append((weight, encoder))
        assert seen, f"refuses each of {self.shapes}; give the class other `shapes`, or options that need less"
        return seen


def _parameters(layer: nn.Module) -> Mapping[str, Tensor]:
    return {f"layer.{name}": parameter for name, parameter in layer.named_parameters()}


def _near(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def _moved(weight: Tensor, movement: int) -> Tensor:
    """`weight` a little elsewhere."""
    step = torch.randn(weight.shape, generator=randomness.generator("conformance movement", movement)).to(weight)
    return weight + MOVED * weight.norm() * step / step.norm()


def _check_gradient(encoder: Encoder, weight: Tensor, encoded: Tensor) -> None:
    """The gradient of a projection of what is written, against its central differences, in float64."""
    assert encoder.decode(weight, encoded).dtype == torch.float64, "leaves float64; if it must, say `doubles = False`"
    matches = torch.autograd.gradcheck(lambda matrix: encoder.decode(weight, matrix), encoded, raise_exception=False)
    assert matches, f"the gradient through decode at {tuple(weight.shape)} is not that of what decode does"

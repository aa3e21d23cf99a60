"""Ports: how the tensors of a layer lie in the matrix that takes part."""

import pytest
import torch
from torch import nn

from mergenet.config import InputError
from mergenet.method.layout import Dense, Factors, Layout
from mergenet.method.ports import Port, find_port

LAYER = nn.Conv2d(3, 4, (2, 5))


def port_of(layer: nn.Module, layout: Layout) -> Port:
    return find_port({f"a.{name}": value for name, value in layer.named_parameters()}, "a", {}, layout)


def test_a_kernel_is_a_row_an_output() -> None:
    matrix, weight = port_of(LAYER, Dense()).read(), LAYER.weight
    assert tuple(matrix.shape) == (4, 30)
    assert all(matrix[o, (i * 2 + y) * 5 + x] == weight[o, i, y, x] for o, i, y, x in places())


def test_the_authors_flattening_has_a_row_an_output_and_line_and_a_column_an_input_and_place() -> None:
    matrix, weight = port_of(LAYER, Dense(flattening="kernel")).read(), LAYER.weight
    assert tuple(matrix.shape) == (8, 15)
    assert all(matrix[o * 2 + y, i * 5 + x] == weight[o, i, y, x] for o, i, y, x in places())


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 4, 2), nn.Conv3d(3, 4, 2)])
def test_a_kernel_that_is_not_of_two_dimensions_has_one_flattening(layer: nn.Module) -> None:
    port = port_of(layer, Dense(flattening="kernel"))
    assert torch.equal(port.read(), port_of(layer, Dense()).read())
    port.write(wanted := torch.randn(port.shape))
    assert torch.equal(port.read(), wanted)


def places() -> list[tuple[int, int, int, int]]:
    return [(o, i, y, x) for o in range(4) for i in range(3) for y in range(2) for x in range(5)]


def test_a_bias_is_the_last_column() -> None:
    port = port_of(LAYER, Dense(bias=True))
    matrix = port.read()
    assert torch.equal(matrix, torch.cat([LAYER.weight.detach().reshape(4, 30), LAYER.bias.detach()[:, None]], 1))
    assert port.shape == (4, 31) and list(port.parameters) == ["a.weight", "a.bias"]


@pytest.mark.parametrize("layout", [Dense(), Dense(flattening="kernel"), Dense(bias=True)])
def test_what_is_written_is_read_again_and_nothing_else_changes(layout: Layout) -> None:
    layer = nn.Conv2d(3, 4, (2, 5))
    port, bias = port_of(layer, layout), layer.bias.detach().clone()
    wanted = torch.randn(port.shape)
    port.write(wanted)
    assert torch.equal(port.read(), wanted)
    assert torch.equal(layer.bias, wanted[:, -1] if "a.bias" in port.parameters else bias)


@pytest.mark.parametrize("layout", [Dense(), Dense(flattening="kernel"), Dense(bias=True)])
def test_a_gradient_lies_as_its_weight_does(layout: Layout) -> None:
    layer = nn.Conv2d(3, 4, (2, 5))
    port = port_of(layer, layout)
    (0.5 * sum(tensor.square().sum() for tensor in port.tensors)).backward()  # whose gradient is the weight itself
    assert torch.equal(port.gradient(), port.read())


def test_a_port_that_had_no_backward_pass_has_no_gradient() -> None:
    with pytest.raises(InputError, match=r"^port 'a' has no gradient to learn from"):
        port_of(nn.Linear(3, 4), Dense()).gradient()


@pytest.mark.parametrize(("factor", "shape"), [("A", (2, 3)), ("B", (4, 2)), ("both", (7, 2))])
def test_factors_are_read_one_or_one_above_the_other_transposed(factor: str, shape: tuple[int, int]) -> None:
    left, right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 3))
    factors = {"a.parametrizations.weight.original0": left, "a.parametrizations.weight.original1": right}
    port = find_port(factors, "a", {}, Factors(factor))  # type: ignore[arg-type]
    expected = {"A": right, "B": left, "both": torch.cat([left, right.T])}[factor]
    assert port.shape == shape and torch.equal(port.read(), expected)
    wanted = torch.randn(shape)
    port.write(wanted)
    assert torch.equal(port.read(), wanted)


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        (Dense(), "no port 'a'; there is a.parametrizations.weight.original0, a.parametrizations.weight.original1"),
        (Factors("both"), "port 'a' is not factored: its learner says so with `factored: {PORT: {rank: 8}}`"),
    ],
)
def test_norm_and_direction_of_a_weight_are_no_factors(layout: Layout, line: str) -> None:
    with pytest.raises(InputError) as refused:
        port_of(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), layout)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("name", "layout", "line"),
    [
        ("layer", Dense(), "no port 'layer'; there is a"),
        ("a.bias", Dense(), "port 'a.bias' is a vector of 4: only a matrix or a kernel can take part"),
        ("a", Factors(), "port 'a' is not factored: its learner says so with `factored: {PORT: {rank: 8}}`"),
    ],
)
def test_what_cannot_take_part_is_refused(name: str, layout: Layout, line: str) -> None:
    parameters = {f"a.{key}": value for key, value in nn.Linear(3, 4).named_parameters()}
    with pytest.raises(InputError) as refused:
        find_port(parameters, name, {}, layout)
    assert str(refused.value) == line

"""What else remembers a written weight: momentum and running statistics, kept, forgotten or rescaled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from mergenet.config import InputError
from mergenet.method.layout import Dense
from mergenet.method.ports import find_port
from mergenet.method.upkeep import KNOWN, Change, Upkeep, check_remembers, find_batchnorm, make_upkeep
from tests.refused import refusal

GROWTH = torch.tensor([2.0, 0.5, 1.0, 4.0])  # of each row


def trained(make: Callable[[Any], optim.Optimizer]) -> tuple[nn.Sequential, optim.Optimizer, torch.Tensor]:
    """A convolution with a BatchNorm behind it and a linear layer, after two steps; images on which it trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4))
    optimizer = make(model.parameters())
    images = torch.randn(32, 3, 2, 2)
    for _ in range(2):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return model, optimizer, images


def write(model: nn.Sequential, upkeep: Upkeep) -> None:
    port = find_port(dict(model.named_parameters()), "0", {})
    before = port.read()
    port.write(before * GROWTH[:, None])
    upkeep.after_write(port, before, port.read())


def sgd(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", [sgd, optim.AdamW])
def test_reset_forgets_the_momentum_of_the_written_weight_alone(make: Callable[[Any], optim.Optimizer]) -> None:
    model, optimizer, images = trained(make)
    others = [parameter for parameter in model.parameters() if parameter is not model[0].weight]
    write(model, Upkeep(optimizer=(optimizer, "reset")))
    assert model[0].weight not in optimizer.state
    assert all(parameter in optimizer.state for parameter in others)
    fresh = make(model.parameters())  # the written weight now steps as in an optimizer that has seen nothing
    before = model[0].weight.detach().clone()
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()
    stepped = model[0].weight.detach().clone()
    model[0].weight.data.copy_(before)
    fresh.step()
    assert torch.equal(model[0].weight, stepped)


def test_rescale_divides_momentum_by_what_each_row_has_grown() -> None:
    model, optimizer, _ = trained(sgd)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    write(model, Upkeep(optimizer=(optimizer, "rescale")))
    torch.testing.assert_close(
        optimizer.state[model[0].weight]["momentum_buffer"], momentum / GROWTH.view(4, 1, 1, 1), rtol=1e-5, atol=0
    )


def test_rescale_divides_squares_by_the_square() -> None:
    model, optimizer, _ = trained(optim.AdamW)
    state = {name: value.clone() for name, value in optimizer.state[model[0].weight].items()}
    write(model, Upkeep(optimizer=(optimizer, "rescale")))
    after, rows = optimizer.state[model[0].weight], GROWTH.view(4, 1, 1, 1)
    torch.testing.assert_close(after["exp_avg"], state["exp_avg"] / rows, rtol=1e-5, atol=0)
    torch.testing.assert_close(after["exp_avg_sq"], state["exp_avg_sq"] / rows**2, rtol=1e-5, atol=0)
    assert after["step"] == state["step"]


@pytest.mark.parametrize(
    ("optimizer", "line"),
    [
        (optim.RMSprop, "RMSprop is none of SGD, Adam, AdamW, NAdam, RAdam, whose memory is known; leave it at 'keep'"),
        (optim.SGD, "SGD without momentum remembers nothing; leave it at 'keep'"),
    ],
)
def test_an_optimizer_of_which_nothing_is_known_or_that_has_nothing_is_refused(
    optimizer: Callable[[Any], optim.Optimizer], line: str
) -> None:
    assert refusal(lambda: check_remembers(optimizer([nn.Parameter(torch.ones(2))]))) == line


def test_an_optimizer_in_that_of_lightning_is_known() -> None:
    check_remembers(LightningOptimizer(optim.AdamW([nn.Parameter(torch.ones(2))])))


@pytest.mark.parametrize("make", KNOWN)
@pytest.mark.parametrize("policy", ["reset", "rescale"])
def test_every_known_optimizer_goes_on(make: Callable[..., optim.Optimizer], policy: Change) -> None:
    model, optimizer, images = trained(lambda parameters: make(parameters, lr=0.01))
    write(model, Upkeep(optimizer=(optimizer, policy)))
    model(images).square().mean().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_bias_is_an_entry_of_its_row_whose_growth_is_its_own() -> None:
    """By itself it may be as good as zero, before or after, and momentum by its own growth without bound."""
    model, optimizer, _ = trained(sgd)
    model[0].bias.data.fill_(1e-9)
    port = find_port(dict(model.named_parameters()), "0", {}, Dense(bias=True))
    momentum = optimizer.state[model[0].bias]["momentum_buffer"].clone()
    before = port.read()
    written = before * GROWTH[:, None]
    written[:, -1] = torch.tensor([1.0, -1.0, 0.0, 1e-9]) * 1e-3
    port.write(written)
    Upkeep(optimizer=(optimizer, "rescale")).after_write(port, before, port.read())
    torch.testing.assert_close(optimizer.state[model[0].bias]["momentum_buffer"], momentum / GROWTH, rtol=1e-4, atol=0)


def test_a_rescaled_batchnorm_makes_the_same_outputs_of_grown_rows() -> None:
    """Without bias the outputs of a grown row are as much larger, and their mean and deviation too."""
    model, _, images = trained(sgd)
    with torch.no_grad():
        model[0].bias.zero_()
    norm = model[1]
    norm.eps = 0.0
    model.eval()
    before = model[:2](images)
    write(model, Upkeep(batchnorm=(norm, "rescale")))
    torch.testing.assert_close(model[:2](images), before, rtol=1e-4, atol=1e-5)


def test_a_reset_batchnorm_has_seen_nothing() -> None:
    model, _, _ = trained(sgd)
    write(model, Upkeep(batchnorm=(model[1], "reset")))
    fresh = nn.BatchNorm2d(4)
    assert torch.equal(model[1].running_mean, fresh.running_mean)
    assert torch.equal(model[1].running_var, fresh.running_var)
    assert model[1].num_batches_tracked == 0


def test_nothing_is_touched_unless_asked() -> None:
    model, optimizer, _ = trained(sgd)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    mean = model[1].running_mean.clone()
    port = find_port(dict(model.named_parameters()), "0", {})
    write(model, make_upkeep("keep", "keep", optimizer, model, port))
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], momentum)
    assert torch.equal(model[1].running_mean, mean)


# --- which BatchNorm ---------------------------------------------------------------------------------------------


def test_the_batchnorm_right_behind_a_layer_is_found_whatever_holds_them() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(inner, nn.Sequential(nn.Conv2d(4, 8, 1)), nn.BatchNorm2d(8))
    found: _BatchNorm = find_batchnorm(model, "0.0", 4)
    assert found is inner[1] and find_batchnorm(model, "1.0", 8) is model[2]


@pytest.mark.parametrize(("path", "outputs"), [("0", 5), ("1", 4), ("2", 4), ("nowhere", 4)])
def test_what_is_not_right_behind_or_of_other_channels_is_none(path: str, outputs: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(2, 4))
    with pytest.raises(InputError, match=f"^no BatchNorm comes right behind '{path}'; leave it at 'keep'"):
        find_batchnorm(model, path, outputs)

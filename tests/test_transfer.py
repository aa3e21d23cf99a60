"""A transfer: when it is due, what it writes, what its adapter learns."""

from typing import Any

import pytest
import torch
from torch import nn

from mergenet.config import parse
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port, find_port
from mergenet.method.sources import Live
from mergenet.method.transfer import Transfer

FORMS = [
    {"encoding": "whole", "adapter": {"lpka": {"form": "gated"}}},
    {"encoding": {"svd": {"rank": 3}}, "adapter": {"lpka": {"form": "gated"}}},
    {"encoding": "whole", "adapter": {"lpka": {"form": "paper"}}},
    {"encoding": {"svd": {"rank": 3}}, "adapter": {"lpka": {"form": "paper"}}},
    {"encoding": {"svd": {"rank": 3}}, "adapter": {"mlp": {"hidden": 8}}},
]


def ports() -> tuple[Port, Port]:
    torch.manual_seed(0)
    source, target = nn.Linear(9, 6), nn.Conv2d(7, 5, 1)
    return find_port({"weight": source.weight}, "weight", {}), find_port({"weight": target.weight}, "weight", {})


def make(steps: int = 100, **change: Any) -> Transfer:
    adapter = change.pop("adapter", {"lpka": {}})
    if "lpka" in adapter:
        adapter = {"lpka": {"width": 8, "heads": 2, **adapter["lpka"]}}
    plain = {"from": "a.weight", "to": "b.weight", "adapter": adapter, "encoding": "whole", **change}
    source, target = ports()
    return Transfer(parse(TransferOptions, plain), Live(source), target, steps, seed=0)


def train_the_target(transfer: Transfer, size: float = 0.05) -> None:
    """Stands for a step of self-learning: moves the target's weight."""
    with torch.no_grad():
        weight = transfer.port.tensors[0]
        weight.add_(size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))


def disturb(transfer: Transfer) -> Transfer:
    with torch.no_grad():
        for parameter in transfer.adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return transfer


# --- when --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"cycle": 4}, [4, 8, 12, 16]),
        ({"cycle": 1, "stop": 0.2}, [1, 2, 3]),
        ({"cycle": 5, "start": 0.5}, [10, 15]),
        ({"cycle": 5, "start": 0.5, "stop": 0.75}, [10]),
        ({"cycle": 20}, []),
    ],
)
def test_due_at_multiples_of_the_cycle_within_start_and_stop(options: dict[str, Any], steps: list[int]) -> None:
    transfer = make(steps=20, **options)
    assert [step for step in range(20) if transfer.due(step)] == steps
    assert transfer.total_updates == len(steps)


@pytest.mark.parametrize(("span", "at", "last"), [("step", 4, 4), ("cycle", 4, 7), ("cycle", 8, 9)])
def test_a_span_ends_with_its_step_or_with_the_last_of_the_cycle_or_run(span: str, at: int, last: int) -> None:
    transfer = make(steps=10, cycle=4, span=span)
    transfer.read(at)
    assert [step for step in range(at, 10) if transfer.ends(step)] == [last]


# --- write -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["whole", {"svd": {"rank": 3}}])
def test_gated_leaves_the_weight_untouched_at_its_start_and_the_first_learn_moves_it(encoding: Any) -> None:
    transfer = make(encoding=encoding, optimizer={"adamw": {"lr": 1e-2}})
    before = transfer.port.read()
    transfer.read(4)
    transfer.write()
    assert torch.equal(transfer.port.read(), before)
    train_the_target(transfer)
    transfer.learn()
    moved = transfer.port.read()
    transfer.read(8)
    transfer.write()
    change = (transfer.port.read() - moved).norm() / moved.norm()
    assert 1e-4 < change < 0.5


def test_the_feed_forward_branch_moves_too() -> None:
    transfer = make(optimizer={"adamw": {"lr": 1e-2}})
    last = transfer.adapter.layers[0].feed[-1].weight
    transfer.read(4)
    transfer.write()
    train_the_target(transfer)
    assert last.abs().max() == 0
    transfer.learn()
    assert last.abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_blend_goes_so_much_of_the_way(form: dict[str, Any]) -> None:
    whole, part = (disturb(make(blend=blend, **form)) for blend in (1.0, 0.25))
    before = part.port.read()
    for transfer in (whole, part):
        transfer.read(4)
        transfer.write()
    torch.testing.assert_close(part.port.read(), before + 0.25 * (whole.port.read() - before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("match", ["rows", "norm", "moments"])
def test_a_matched_write_has_the_scale_of_what_was_there(match: str) -> None:
    """The paper's form gives every row unit variance, whatever a weight's scale was."""
    transfer = disturb(make(encoding="whole", adapter={"lpka": {"form": "paper"}}, match=match))
    before = transfer.port.read()
    transfer.read(4)
    transfer.write()
    after = transfer.port.read()
    assert not torch.allclose(after, before, rtol=0.1)
    if match == "rows":
        torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))
    if match == "norm":
        torch.testing.assert_close(after.norm(), before.norm())
    if match == "moments":
        torch.testing.assert_close((after.mean(), after.std()), (before.mean(), before.std()))


def test_writing_keeps_the_parameter_its_storage_and_its_momentum() -> None:
    """DDP's hooks and the optimizer's state hold on to the parameter object."""
    transfer = disturb(make())
    weight, place = transfer.port.tensors[0], transfer.port.tensors[0].data_ptr()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[weight]["momentum_buffer"].clone()
    transfer.read(4)
    transfer.write()
    assert transfer.port.tensors[0] is weight and weight.data_ptr() == place
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], momentum)


def test_read_takes_copies() -> None:
    """Without a copy the source's own step would raise an in-place error in `learn`."""
    transfer = disturb(make())
    transfer.read(4)
    pending = transfer.pending
    assert pending is not None
    before = pending.source.clone(), pending.target.clone()
    transfer.write()
    with torch.no_grad():
        ports_now = (transfer.source.port.tensors[0], transfer.port.tensors[0])  # type: ignore[attr-defined]
        for weight in ports_now:
            weight.mul_(2.0)
    transfer.learn()
    assert torch.equal(pending.source, before[0]) and torch.equal(pending.target, before[1])


# --- learn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["step", "cycle"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_half_the_squared_distance_to_the_moved_weight(form: dict[str, Any], span: str) -> None:
    options = {"optimizer": {"sgd": {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}}, "schedule": "constant"}
    transfer = disturb(make(span=span, clip=1e9, **options, **form))
    transfer.read(4)
    memory = {name: buffer.clone() for name, buffer in transfer.adapter.named_buffers()}
    before = {name: parameter.detach().clone() for name, parameter in transfer.adapter.named_parameters()}
    transfer.write()
    train_the_target(transfer)
    moved = transfer.port.read()
    pending = transfer.pending
    assert pending is not None
    for name, buffer in transfer.adapter.named_buffers():
        buffer.copy_(memory[name])
    x, y = transfer.target_encoder.encode(pending.target), transfer.source_encoder.encode(pending.source)
    generated = transfer.target_encoder.decode(pending.target, transfer.adapter(x, y))
    loss = 0.5 * (generated - moved).square().sum()
    expected = torch.autograd.grad(loss, list(transfer.adapter.parameters()), materialize_grads=True)
    transfer.learn()
    for (name, parameter), gradient in zip(transfer.adapter.named_parameters(), expected, strict=True):
        torch.testing.assert_close(before[name] - parameter, gradient, rtol=1e-4, atol=1e-6)


def test_the_gradient_written_out_for_one_parameter() -> None:
    """A hand-computed case: an adapter that scales by w; generated = w X, so the gradient is <w X - moved, X>."""

    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([[2.0]]))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.scale * x

    plain_sgd = {"sgd": {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}}
    transfer = make(optimizer=plain_sgd, schedule="constant", clip=1e9)
    transfer.adapter = Scaling()
    transfer.optimizer = transfer.options.optimizer.build(transfer.adapter.parameters())
    transfer.port.write(torch.full((5, 7), 1.0))
    transfer.read(4)
    transfer.write()
    assert torch.equal(transfer.port.read(), torch.full((5, 7), 2.0))
    transfer.port.write(torch.full((5, 7), 1.5))  # training moved it from 2 to 1.5
    transfer.learn()
    # delta = 0.5 in each of 35 entries, X = 1: gradient 17.5, and 2 - 0.01 * 17.5 = 1.825
    torch.testing.assert_close(transfer.adapter.scale, torch.tensor([[1.825]]))


def test_learning_brings_the_generated_weight_nearer_to_where_training_moves_it() -> None:
    transfer = make(steps=4000, cycle=1, optimizer={"adamw": {"lr": 3e-3, "weight_decay": 0.0}})
    goal = torch.randn(5, 7)
    start = transfer.port.read()
    distances = []
    for step in range(1, 60):
        transfer.port.write(start)
        transfer.read(step)
        transfer.write()
        distances.append((transfer.port.read() - goal).norm())
        transfer.port.write(goal)
        transfer.learn()
    assert distances[-1] < 0.7 * distances[0]


def test_the_rate_follows_the_schedule_over_the_adapters_own_updates() -> None:
    transfer = make(steps=17, cycle=4, optimizer={"adamw": {"lr": 1.0}}, schedule="cosine")
    rates = []
    for step in range(17):
        if transfer.due(step):
            transfer.read(step)
            transfer.write()
            train_the_target(transfer)
            transfer.learn()
            rates.append(transfer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_biases_and_gates_are_not_decayed() -> None:
    matrices, vectors = make(optimizer={"adamw": {"weight_decay": 0.1}}).optimizer.param_groups
    assert matrices["weight_decay"] == 0.1 and vectors["weight_decay"] == 0.0
    assert all(p.dim() > 1 for p in matrices["params"]) and all(p.dim() <= 1 for p in vectors["params"])


@pytest.mark.parametrize("span", ["step", "cycle"])
def test_nothing_is_learned_from_a_step_that_did_not_take_place(span: str) -> None:
    transfer = disturb(make(span=span))
    before = [parameter.detach().clone() for parameter in transfer.adapter.parameters()]
    transfer.read(4)
    transfer.write()
    transfer.learn()
    assert transfer.updates == 0 and transfer.pending is None and transfer.figures["moved"] == 0
    assert all(torch.equal(*pair) for pair in zip(before, transfer.adapter.parameters(), strict=True))


def test_clip_bounds_the_gradients_norm() -> None:
    transfer = disturb(make(clip=1e-3, optimizer={"sgd": {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}}))
    before = torch.cat([parameter.detach().flatten().clone() for parameter in transfer.adapter.parameters()])
    transfer.read(4)
    transfer.write()
    train_the_target(transfer, size=10.0)
    transfer.learn()
    after = torch.cat([parameter.detach().flatten() for parameter in transfer.adapter.parameters()])
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-2)


# --- state -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_pending_transfer_survives_a_checkpoint_bit_for_bit(form: dict[str, Any]) -> None:
    """Span of a cycle: the graph is gone, `learn` generates again from the inputs, dropout and power iteration too."""
    if "lpka" in form["adapter"]:
        form = {**form, "adapter": {"lpka": {**form["adapter"]["lpka"], "dropout": 0.3}}}
    one, other = (disturb(make(span="cycle", cycle=4, **form)) for _ in range(2))
    one.read(4)
    one.write()
    other.load_state_dict(one.state_dict())
    other.port.write(one.port.read())
    for transfer in (one, other):
        train_the_target(transfer)
        transfer.learn()
        transfer.read(8)
        transfer.write()
    assert torch.equal(one.port.read(), other.port.read())
    assert not torch.equal(one.port.read(), ports()[1].read())


def test_generating_again_gives_what_was_written_bit_for_bit() -> None:
    transfer = disturb(make(span="cycle", adapter={"lpka": {"form": "paper", "dropout": 0.3}}))
    transfer.read(4)
    transfer.write()
    assert transfer.pending is not None
    assert torch.equal(transfer._generate_again(transfer.pending), transfer.port.read())


def test_seed_and_ports_key_the_adapter_and_no_name_that_a_person_gave_does() -> None:
    source, target = ports()

    def weights(seed: int, origin: str, goal: str, path: str = "weight") -> torch.Tensor:
        options = parse(TransferOptions, {"from": origin, "to": goal, "encoding": "whole"})
        port = Port(goal.partition(".")[2], path, target.parameters)
        adapter = Transfer(options, Live(source), port, 10, seed).adapter
        return torch.cat([parameter.flatten() for parameter in adapter.parameters()])

    first = weights(0, "a.weight", "b.weight")
    assert torch.equal(first, weights(0, "x.weight", "y.other-name"))
    assert not torch.equal(first, weights(1, "a.weight", "b.weight"))
    assert not torch.equal(first, weights(0, "a.weight", "b.weight", path="other"))

"""Transfers on two gloo ranks: in DDP and sharded by FSDP2, the same as in one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mergenet.config import InputError
from mergenet.library import Transfer
from tests.loops import FROM, TO, Loop, networks, small
from tests.ranks import on_ranks
from tests.test_library_examples import example

WAYS: dict[str, dict[str, Any]] = {
    "step": {"optimizer_state": "rescale"},
    "cycle": {"span": "cycle", "cycle": 4},
    "loss": {"update": "loss"},
}


def whole(*models: nn.Module) -> Tensor:
    """All weights of models that may be sharded; a collective call."""
    parameters = [parameter.detach() for model in models for parameter in model.parameters()]
    full = [one.full_tensor() if isinstance(one, DTensor) else one for one in parameters]
    return torch.cat([one.flatten() for one in full])


def trained(way: str, wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> Tensor:
    """Weights after ten ticks; before each, both models are looked at, as someone who validates does."""
    models = [wrap(model) for model in networks()]
    loop = Loop(*models)
    transfer = Transfer(*models, FROM, TO, target_optimizer=loop.optimizers[1], **small(**WAYS[way]))
    for tick in range(10):
        with torch.no_grad():
            for model in models:
                model(loop.inputs())
        if tick == 6:
            state = transfer.state_dict()
            transfer = Transfer(*models, FROM, TO, target_optimizer=loop.optimizers[1], **small(**WAYS[way]))
            transfer.load_state_dict(state)
        loop.run(transfer, 1)
    return whole(*models)


def shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)  # type: ignore[index]
    return fully_shard(model, mesh=mesh)


def on_each() -> dict[str, Any]:
    found: dict[str, Any] = {way: (trained(way, DistributedDataParallel), trained(way, shard)) for way in WAYS}
    found["drift"] = (drifting(dist.get_rank()), whole(*networks()))
    found["half"] = half()
    found["refused"] = refused()
    found["examples"] = [whole(example(name)["train"]()) for name in ("ddp", "fsdp")]
    return found


def drifting(rank: int) -> Tensor:
    """What a target holds after a write, beside sources that differ from rank to rank."""
    source, target = networks()
    transfer = Transfer(source, target, FROM, TO, **small(adapter={"mlp": {"hidden": 8}}))
    Loop(target).run(transfer, 2)
    with torch.no_grad():
        source.get_parameter("2.weight").add_(rank)
    transfer.begin()
    return target.get_parameter("0.weight").detach().clone()


def half() -> Tensor:
    """A sharded target in bf16."""
    source, target = (model.bfloat16() for model in networks())
    shard(target)
    Loop(target).run(Transfer(source, target, FROM, TO, **small()), 6)
    return whole(target)


def refused() -> list[str]:
    said = []
    source, target = networks()
    transfer = Transfer(source, target, FROM, TO, **small(cycle=1))
    loop = Loop(target).run(transfer, 1)
    shard(target)
    first = FullyShardedDataParallel(networks()[1], device_id=torch.device("cpu"))
    for call in (transfer.begin, lambda: Transfer(source, first, FROM, TO, **small())):
        with pytest.raises(InputError) as caught:
            call()
        said.append(str(caught.value))
    assert loop.tick == 1
    return said


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks found."""
    return on_ranks(2, on_each, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_end_where_one_process_does(two: list[dict[str, Any]], way: str) -> None:
    """Both see the same batches, so that the mean of their gradients is that of one."""
    alone = trained(way)
    for found in two:
        for kind, weights in zip(("DDP", "FSDP2"), found[way], strict=True):
            torch.testing.assert_close(weights, alone, rtol=1e-5, atol=1e-6, msg=kind)


def test_rank_0s_weight_is_written_everywhere(two: list[dict[str, Any]]) -> None:
    assert torch.equal(two[0]["drift"][0], two[1]["drift"][0])
    assert not torch.equal(two[0]["drift"][0], networks()[1].get_parameter("0.weight"))


def test_a_sharded_weight_may_be_of_half_precision(two: list[dict[str, Any]]) -> None:
    source, target = (model.bfloat16() for model in networks())
    Loop(target).run(Transfer(source, target, FROM, TO, **small()), 6)
    for found in two:
        torch.testing.assert_close(found["half"], whole(target), rtol=0.02, atol=0.002)


def test_sharding_afterwards_and_the_first_fsdp_are_refused(two: list[dict[str, Any]]) -> None:
    after, first = two[0]["refused"]
    assert after.startswith("target: '0.weight' is another tensor than when the transfer was made; make it after what")
    assert first == "target: FullyShardedDataParallel flattens weights; shard it by `fully_shard` (FSDP2)"


@pytest.mark.parametrize("index", [0, 1])
def test_the_examples_end_with_the_same_weights_on_both_ranks(two: list[dict[str, Any]], index: int) -> None:
    one, other = (found["examples"][index] for found in two)
    assert torch.equal(one, other) and one.isfinite().all()


def test_what_the_ranks_have_comes_from_transfers(two: list[dict[str, Any]]) -> None:
    models = networks()
    Loop(*models).run(Transfer(*models, FROM, TO, **small(enabled=False)), 10)
    assert (two[0]["step"][1] - whole(*models)).abs().max() > 1e-3

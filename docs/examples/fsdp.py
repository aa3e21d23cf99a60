"""A target sharded over several processes by FSDP2: torchrun --nproc-per-node 2 fsdp.py."""

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from mergenet import Transfer

STEPS, BATCH = 20, 32


def train() -> nn.Module:
    """The target after training on random data beside a source that is the same, and whole, on every rank."""
    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    target = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    fully_shard(target, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(target.parameters(), lr=1e-2)

    # Like the optimizer, the transfer is made after `fully_shard`, which replaces the parameters.
    transfer = Transfer(source, target, "2", "0", rank=8, cycle=4, steps=STEPS)
    draws = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(STEPS):
        images = torch.randn(BATCH, 64, generator=draws)
        with transfer:
            optimizer.zero_grad()
            functional.cross_entropy(target(images), images[:, :10].argmax(1)).backward()
            optimizer.step()

    if dist.get_rank() == 0:
        print(transfer)
    return target


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()
    dist.destroy_process_group()

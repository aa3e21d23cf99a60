"""Two networks in DDP on several processes: torchrun --nproc-per-node 2 ddp.py."""

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mergenet import Transfer

STEPS, BATCH = 20, 32


def train() -> nn.Module:
    """The target after training on random data; every rank sees its own part of each batch."""
    torch.manual_seed(0)  # the same weights on every rank
    source = DistributedDataParallel(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)))
    target = DistributedDataParallel(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.1) for model in (source, target)}

    transfer = Transfer(source, target, "2", "0", rank=8, cycle=4, steps=STEPS)
    draws = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(STEPS):
        images = torch.randn(BATCH, 64, generator=draws)
        with transfer:
            for model, optimizer in optimizers.items():
                optimizer.zero_grad()
                functional.cross_entropy(model(images), images[:, :10].argmax(1)).backward()
                optimizer.step()

    if dist.get_rank() == 0:
        print(transfer)
    return target.module


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train()
    dist.destroy_process_group()

"""Two sources and a target that teaches back: all weights are read before any is written."""

import torch
from torch import nn
from torch.nn import functional

from mergenet import Transfer, Transfers

STEPS, BATCH = 40, 32

torch.manual_seed(0)
wide = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
deep = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))
small = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.1) for model in (wide, deep, small)}

transfers = Transfers(
    [
        Transfer(wide, small, "2", "0", rank=8, cycle=4, steps=STEPS),
        Transfer(deep, small, "4", "2", rank=8, cycle=4, steps=STEPS),
        Transfer(small, deep, "2", "2", rank=8, cycle=8, steps=STEPS),
    ]
)
for _ in range(STEPS):
    images = torch.randn(BATCH, 64)
    with transfers:
        for model, optimizer in optimizers.items():
            optimizer.zero_grad()
            functional.cross_entropy(model(images), images[:, :10].argmax(1)).backward()
            optimizer.step()

for transfer in transfers.transfers:
    print(transfer)

"""Two networks for handwritten digits; the classifier of one teaches a hidden layer of the other."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from mergenet import Transfer

STEPS, BATCH = 200, 64

torch.manual_seed(0)
images, labels = (torch.tensor(values) for values in load_digits(return_X_y=True))
images = images.float() / 16

source = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
target = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (source, target)}


def step(model: nn.Module, batch: Tensor) -> None:
    """Forward, backward, optimizer: nothing of it knows of the transfer."""
    optimizers[model].zero_grad()
    functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizers[model].step()


# From the third layer of the source, its classifier, to the third of the target. They differ in shape.
transfer = Transfer(source, target, "2", "2", rank=8, cycle=4, steps=STEPS)
for batch in torch.randint(len(images), (STEPS, BATCH)):
    with transfer:
        step(source, batch)
        step(target, batch)

print(transfer)
print(f"The last transfer changed the weight by {transfer.figures['written']:.2%} of its norm,")
print(f"the step of training after it by {transfer.figures['moved']:.2%}.")

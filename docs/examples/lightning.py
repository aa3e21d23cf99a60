"""PyTorch Lightning: a callback, for a module that holds both networks."""

import tempfile
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from mergenet import Transfer


class TransferCallback(lightning.Callback):
    """A transfer between two networks of the module; its state goes into Lightning's checkpoints."""

    def __init__(self, source: str, target: str, **options: Any) -> None:
        self.ends, self.options = (source, target), options
        self.state: dict[str, Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        models, ports = zip(*(end.split(".", 1) for end in self.ends), strict=True)
        source, target = (module.get_submodule(model) for model in models)
        steps = int(trainer.estimated_stepping_batches)
        self.transfer = Transfer(source, target, *ports, steps=steps, **self.options)
        if self.state is not None:
            self.transfer.load_state_dict(self.state)

    def on_train_batch_start(self, *_: Any) -> None:
        self.transfer.begin()

    def on_train_batch_end(self, *_: Any) -> None:
        self.transfer.end()

    def state_dict(self) -> dict[str, Any]:
        return self.transfer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class Two(lightning.LightningModule):
    """A wide and a narrow network that learn the same task side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        self.narrow = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return sum(functional.cross_entropy(model(images), labels) for model in (self.wide, self.narrow))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    lightning.seed_everything(0, verbose=False)
    images = torch.randn(640, 64)
    loader = DataLoader(TensorDataset(images, images[:, :10].argmax(1)), batch_size=32, shuffle=True)
    callback = TransferCallback("wide.2", "narrow.0", rank=8, cycle=4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            callbacks=[callback],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Two(), loader)
    print(callback.transfer)

"""Hugging Face Trainer: a callback, here for a transfer from one layer of BERT to another."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mergenet import Transfer


class TransferCallback(TrainerCallback):
    """A transfer into the model that is trained, from `source` or within it; its state lies beside checkpoints."""

    def __init__(self, from_port: str, to_port: str, source: nn.Module | None = None, **options: Any) -> None:
        self.ports, self.source, self.options = (from_port, to_port), source, options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        source = model if self.source is None else self.source
        self.transfer = Transfer(source, model, *self.ports, steps=state.max_steps, **self.options)
        if state.global_step > 0:
            self.transfer.load_state_dict(torch.load(self.file(args, state), weights_only=True))

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.transfer.begin()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:  # `on_step_end` finds no gradients, if you need them
        self.transfer.end()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            torch.save(self.transfer.state_dict(), self.file(args, state))

    def file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(args.output_dir, f"checkpoint-{state.global_step}", "transfer.pt")


def tiny_bert() -> BertForSequenceClassification:
    """Two layers of 32 units and a vocabulary of 100."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_labels=3,
        )
    )


def sentences(count: int) -> list[dict[str, Any]]:
    """Random words; the first decides the label."""
    words = torch.randint(100, (count, 12), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": sentence, "labels": int(sentence[0]) % 3} for sentence in words]


if __name__ == "__main__":
    torch.manual_seed(0)
    callback = TransferCallback(
        "bert.encoder.layer.1.attention.self.value", "bert.encoder.layer.0.attention.self.value", rank=8, cycle=4
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=20, report_to="none", save_steps=10, disable_tqdm=True, use_cpu=True
        )
        Trainer(tiny_bert(), arguments, train_dataset=sentences(160), callbacks=[callback]).train()
    print(callback.transfer)

"""The examples run as they stand, resume where they say so, and the page shows them and the options as they are."""

import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mergenet.config import Options, fields_of
from mergenet.library.keywords import Keywords
from mergenet.method.options import TransferOptions
from tests.loops import vector

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS / "examples"
PAGE = (DOCS / "library.md").read_text()


def example(name: str, run_name: str = "example") -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=run_name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "plain",
            r"Transfer\(2 \(10, 128\) -> 2 \(32, 32\), cycle 4: 200 ticks, 49 updates\)\nThe last transfer changed",
        ),
        ("several", r"(Transfer\(.* 40 ticks, [94] updates\)\n){3}"),
        ("lightning", r"Transfer\(2 \(10, 96\) -> 0 \(16, 64\), cycle 4: 40 ticks, 9 updates\)\n"),
        ("trainer", r"Transfer\(bert.* cycle 4: 20 ticks, 4 updates\)\n"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_example_runs(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    example(name, "__main__")
    assert re.search(said, capsys.readouterr().out)


def test_an_example_runs_under_torchrun(tmp_path: Path) -> None:
    """How `fsdp` trains is among the tests on two ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(EXAMPLES / "ddp.py")],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Transfer(2 (10, 48) -> 0 (32, 64), cycle 4: 20 ticks, 4 updates)\n"


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    lightning, names = pytest.importorskip("pytorch_lightning"), example("lightning")
    images = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).repeat(20, 1)
    loader = DataLoader(
        TensorDataset(images, images[:, :10].argmax(1)), batch_size=32
    )  # all batches equal: their place is not resumed

    def fit(checkpoint: Path | None) -> Any:
        torch.manual_seed(0)
        callback = names["TransferCallback"]("wide.2", "narrow.0", span="cycle", cycle=4)
        saving = lightning.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_steps=10, accelerator="cpu", callbacks=[callback, saving], **quiet)
        trainer.fit(names["Two"](), loader, ckpt_path=checkpoint, weights_only=True)
        return trainer.lightning_module, callback.transfer

    whole, transfer = fit(None)
    resumed, again = fit(tmp_path / "step=6.ckpt")
    assert torch.equal(vector(whole), vector(resumed)) and again.ticks == transfer.ticks == 10
    assert torch.equal(vector(transfer.adapter), vector(again.adapter)) and again.updates == 2


@pytest.mark.filterwarnings("ignore")
def test_trainer_resumes_from_its_own_checkpoint_and_learns_from_the_loss(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    names = example("trainer")
    ends = ("bert.encoder.layer.1.attention.self.value", "bert.encoder.layer.0.attention.self.value")

    def train(folder: Path, **resume: Any) -> Any:
        torch.manual_seed(0)
        callback = names["TransferCallback"](*ends, source=names["tiny_bert"](), update="loss", cycle=2)
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_steps": 5, "logging_steps": 99}
        arguments = TrainingArguments(str(folder), max_steps=10, **quiet)
        data = names["sentences"](80)
        trainer = Trainer(names["tiny_bert"](), arguments, train_dataset=data, callbacks=[callback])
        trainer.train(**resume)
        return trainer.model, callback.transfer

    whole, transfer = train(tmp_path)
    resumed, again = train(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(vector(whole), vector(resumed)) and again.updates == transfer.updates == 4
    assert torch.equal(vector(transfer.adapter), vector(again.adapter))


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_shows_pieces_of_the_examples() -> None:
    examples = [file.read_text() for file in EXAMPLES.glob("*.py")]
    shown = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) > 5
    for piece in shown:
        assert any(piece in text or textwrap.indent(piece, "    ") in text for text in examples), piece


def test_every_example_is_on_the_page() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert f"examples/{file.name}" in PAGE


def test_the_page_has_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGE, re.MULTILINE)
    told = {name: default.strip("`") for name, default in rows if name in Keywords.__annotations__}
    assert told.keys() == Keywords.__annotations__.keys()
    defaults = {info.alias or name: info.default for name, info in TransferOptions.model_fields.items()}
    assert fields_of(TransferOptions).keys() == defaults.keys()
    for name, default in told.items():
        value = defaults[name]
        if isinstance(value, Options):
            word = next(iter(TransferOptions.model_fields[name].metadata)).key_of(value)
            assert default.startswith(word), name
        else:
            assert default == str(value), name

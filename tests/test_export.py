"""An exported learner is the trained one, wherever it is taken."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mergenet
from mergenet.cli import main
from mergenet.config import merge, parse
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.models import code_digest, find_model
from mergenet.training.export import export_model
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import final_state
from tests.conftest import SMALL
from tests.refused import refusal

MODELS = {"target": "mobilenet_v2-narrow", "source": "resnet18-narrow", "published": "shufflenet_v2_x0_5"}


def train(folder: Path, change: dict[str, Any]) -> Path:
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, change)), 0, {}, folder), Silent())
    return folder


def learner(model: str) -> dict[str, Any]:
    return {"model": model, "task": {"classification": {"data": "digits"}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, five ticks of three learners."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("finished") / "run", {"learners": {"published": learner(MODELS["published"])}})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path: Path, *keys: str, value: Any) -> None:
    """Changes one value in a JSON file."""
    values = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(values))


def trained(run: Path, name: str) -> nn.Module:
    """The learner as its checkpoint has it, in torch's own ways."""
    module = find_model(MODELS[name]).build(10)
    module.load_state_dict(final_state(run)["learners"][name]["model"])
    return module.eval()


def card_code(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


# --- taken elsewhere ---------------------------------------------------------------------------------------------

ELSEWHERE = """
import importlib, importlib.util, json, os, pathlib, sys

refused = {"mergenet", "torchvision"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
images = torch.load("images.pt")
found = {}
with torch.inference_mode():
    for name in sys.argv[1:]:
        program = torch.export.load(name + "/model.pt2").module()
        found[name] = {"program": program(images), "program of one": program(images[:1])}
    refused.remove("torchvision")
    from safetensors.torch import load_file
    for name in sys.argv[1:]:
        build = json.loads(pathlib.Path(name, "config.json").read_text())["build"]
        if build["module"].endswith(".py"):
            spec = importlib.util.spec_from_file_location(name + "_builder", pathlib.Path(name, build["module"]))
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(build["module"])
        model = getattr(module, build["function"])(**build["arguments"]).eval()
        model.load_state_dict(load_file(name + "/model.safetensors"), strict=True)
        found[name]["rebuilt"] = model(images)
home = os.getcwd()
for name in sys.argv[1:]:
    os.chdir(home + "/" + name)
    sys.path.insert(0, os.getcwd())
    sys.modules.pop("model", None)
    names = {}
    exec(compile(pathlib.Path("code.py").read_text(), "card", "exec"), names)
    with torch.inference_mode():
        found[name]["card"] = names["model"](images)
        found[name]["grey"] = names["logits"]
assert not any(name.partition(".")[0] == "mergenet" for name in sys.modules)
torch.save(found, home + "/found.pt")
"""


@pytest.fixture(scope="module")
def elsewhere(finished: Path, digits: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Logits of 40 test images by each export, in a process and place that know nothing of this package."""
    torch.set_num_threads(1)
    away = tmp_path_factory.mktemp("away")
    for name in MODELS:
        shutil.move(export_model(finished, tmp_path_factory.mktemp("out") / name, name), away / name)
        grey = card_code(away / name).replace("images = torch.zeros(", "images = 200 + torch.zeros(")
        (away / name / "code.py").write_text(grey)
    torch.save(digits.normalise(digits.test.images[:40]), away / "images.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, *MODELS], cwd=away, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Tensor]] = torch.load(away / "found.pt")
    return found


@pytest.mark.parametrize("name", MODELS)
def test_an_export_gives_the_trained_models_logits_without_this_package(
    name: str, finished: Path, digits: Images, elsewhere: dict[str, dict[str, Tensor]]
) -> None:
    images = digits.normalise(digits.test.images[:40])
    with torch.inference_mode():
        expected = trained(finished, name)(images)
    assert torch.equal(elsewhere[name]["rebuilt"], expected)
    assert torch.equal(elsewhere[name]["card"], expected)
    torch.testing.assert_close(elsewhere[name]["program"], expected)
    torch.testing.assert_close(elsewhere[name]["program of one"], expected[:1])
    assert (expected[0] - expected[1]).abs().max() > 0


@pytest.mark.parametrize("name", MODELS)
def test_the_cards_code_normalises_as_training_did(
    name: str, finished: Path, digits: Images, elsewhere: dict[str, dict[str, Tensor]]
) -> None:
    with torch.inference_mode():
        expected = trained(finished, name)(digits.normalise(torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)))
    assert torch.equal(elsewhere[name]["grey"], expected)


# --- what is written ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the clock's learner, without a program."""
    return export_model(finished, tmp_path_factory.mktemp("exported") / "out", program=False)


def test_the_weights_are_the_checkpoints_under_the_models_names_and_contiguous(exported: Path, finished: Path) -> None:
    weights = load_file(exported / "model.safetensors")
    expected = final_state(finished)["learners"]["target"]["model"]
    assert weights.keys() == expected.keys() == find_model(MODELS["target"]).build(10).state_dict().keys()
    for name, weight in weights.items():
        assert weight.is_contiguous() and torch.equal(weight, expected[name]) and weight.dtype == expected[name].dtype


def test_the_configuration_says_what_it_is(exported: Path, finished: Path, digits: Images) -> None:
    config, manifest = (json.loads(path.read_text()) for path in (exported / "config.json", finished / "manifest.json"))
    assert config["model"] == "mobilenet_v2-narrow"
    assert config["build"] == {"module": "model.py", "function": "mobilenet_v2_narrow", "arguments": {"classes": 10}}
    assert (config["classes"], config["learner"], config["seed"], config["tick"]) == (10, "target", 0, 5)
    assert config["input"] == {"shape": [3, 8, 8], "mean": [0.3053] * 3, "deviation": [0.3761] * 3}
    assert (config["run"], config["cell"]) == (manifest["hash"], manifest["cells"]["target"])
    assert config["data"] == {"digits": digits.digest()} and config["program"] is None


def test_a_published_model_is_built_by_torchvision(finished: Path, tmp_path: Path) -> None:
    folder = export_model(finished, tmp_path / "out", "published", program=False)
    config = json.loads((folder / "config.json").read_text())
    arguments = {"num_classes": 10}
    assert config["build"] == {"module": "torchvision.models", "function": MODELS["published"], "arguments": arguments}
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_the_card_tells_figures_seed_data_and_what_transferred(exported: Path, finished: Path, digits: Images) -> None:
    card = (exported / "README.md").read_text()
    result = json.loads((finished / "result.json").read_text())
    figures = result["learners"]["target"]
    for metric in ("loss", "top1", "top5"):
        assert f"| {metric} | {figures['validation'][metric]:.4g} | {figures['test'][metric]:.4g} |" in card
    updates = result["transfers"]["main"]["updates"]
    assert f"`source.classifier` (`resnet18-narrow`) into `irb16`: {updates} times, every 2 steps." in card
    assert "one seed (0)" in card and digits.digest() in card and "epochs: 1\n" in card


def test_a_learner_that_nothing_was_written_into_says_so(finished: Path, tmp_path: Path) -> None:
    card = (export_model(finished, tmp_path / "out", "source", program=False) / "README.md").read_text()
    assert "It trained alone." in card and "## Transfers into it\n\nNone." in card


def test_no_path_of_the_machine_is_in_the_program_either(run: Path) -> None:
    """torch notes source files at every step it traces."""
    with zipfile.ZipFile(export_model(run) / "model.pt2") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    for path in (str(Path(torch.__file__).parents[1]), str(Path(mergenet.__file__).parents[1]), str(Path.home()) + "/"):
        assert path.encode() not in text


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [("numerics", 1, "trained by another version of this package"), ("numerics", None, "trained by another version")],
)
def test_a_record_of_another_version_is_refused(run: Path, key: str, value: object, line: str) -> None:
    edit(run / "manifest.json", key, value=value)
    assert line in refusal(lambda: export_model(run))


def test_no_path_of_the_machine_is_in_it(exported: Path, finished: Path) -> None:
    for name in ("README.md", "config.json", "model.py"):
        text = (exported / name).read_text()
        assert not any(str(path) in text for path in (finished, exported, Path.cwd(), Path.home(), Path(sys.prefix)))


def test_an_export_draws_no_random_numbers(finished: Path, tmp_path: Path) -> None:
    torch.manual_seed(8)
    before = torch.get_rng_state()
    export_model(finished, tmp_path / "out", program=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_weights_are_exported_where_the_experiment_says_so(tmp_path: Path) -> None:
    change = {
        "training": {"epochs": 6, "optimizer": {"sgd": {"lr": 0.3}}},
        "evaluation": {"weights": "best", "validation": 0.8},
        "transfers": {"main": {"enabled": False}},
    }
    run = train(tmp_path / "run", change)
    state = final_state(run)["learners"]
    chosen = next(name for name in state if state[name]["best"]["tick"] != 6)
    folder = export_model(run, learner=chosen, program=False)
    assert folder == run / "export" / chosen
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    assert all(torch.equal(weight, weights[name]) for name, weight in state[chosen]["best"]["weights"].items())
    assert any(not torch.equal(weight, weights[name]) for name, weight in state[chosen]["model"].items())
    assert (config["weights"], config["tick"]) == ("best", state[chosen]["best"]["tick"])


def test_what_the_record_tells_of_the_data_is_enough(run: Path) -> None:
    told = {"path": "/nowhere", "classes": 10, "shape": [3, 8, 8], "mean": [0.5] * 3, "deviation": [0.25] * 3}
    names = [f"the {digit}" for digit in range(10)]
    for key, value in {**told, "names": names}.items():
        edit(run / "manifest.json", "data", "digits", key, value=value)
    folder = export_model(run)
    config = json.loads((folder / "config.json").read_text())
    assert config["class_names"] == names and config["program"] == "model.pt2" and (folder / "model.pt2").exists()
    assert config["input"] == {key: told[key] for key in ("shape", "mean", "deviation")}


# --- a model of the user's own -----------------------------------------------------------------------------------

OWN = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))

class Choosy(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner = net(classes)

    def forward(self, images):
        return self.inner(images if images.sum() > 0 else -images)
"""


def test_a_users_model_is_exported_with_leave_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_for_export.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    learners = {"target": learner("own_for_export:net"), "choosy": learner("own_for_export:Choosy")}
    run = train(tmp_path / "run", {"learners": learners, "transfers": {"main": {"enabled": False, "to": "target.0"}}})
    assert "'own_for_export:net' is code of yours; add --allow-code" in refusal(lambda: export_model(run))
    folder = export_model(run, allow_code=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["build"] == {"module": "own_for_export", "function": "net", "arguments": {"classes": 10}}
    assert config["code_digest"] == code_digest("own_for_export:net")
    assert (folder / "model.pt2").exists() and not (folder / "model.py").exists()
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(card_code(folder), names)
    expected = final_state(run)["learners"]["target"]["model"]
    assert all(torch.equal(value, expected[name]) for name, value in names["model"].state_dict().items())

    said = refusal(lambda: export_model(run, learner="choosy", allow_code=True))
    assert said.startswith("export: no program of this model: ") and "--no-program" in said
    assert sorted(path.name for path in (run / "export").iterdir()) == ["target"]
    export_model(run, learner="choosy", program=False, allow_code=True)


# --- what is refused ---------------------------------------------------------------------------------------------

Spoil = Callable[[Path], Any]


def checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").iterdir())


def flip_a_bit(run: Path) -> None:
    content = bytearray((checkpoint(run) / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint(run) / "state.pt").write_bytes(content)


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no run": (shutil.rmtree, "experiment.json: no such file; a run's folder holds one"),
    "not ended": (lambda run: (run / "result.json").unlink(), "the run has not ended; go on with"),
    "failed": (lambda run: edit(run / "result.json", "status", value="failed"), "the run ended as failed; go on with"),
    "interrupted": (lambda run: edit(run / "result.json", "status", value="interrupted"), "ended as interrupted; go"),
    "diverged": (
        lambda run: edit(run / "result.json", "learners", "target", "diverged_at", value=3),
        "'target' diverged at tick 3",
    ),
    "no checkpoint": (lambda run: shutil.rmtree(checkpoint(run)), "there is no checkpoint left"),
    "broken checkpoint": (flip_a_bit, "checkpoint tick-00000005 is broken (its checksum does not match)"),
    "checkpoint without checksum": (lambda run: (checkpoint(run) / "sha256").unlink(), "tick-00000005 is broken"),
    "earlier checkpoint": (
        lambda run: edit(run / "result.json", "ticks", value=9),
        "its last checkpoint is of tick 5, and the run went to 9",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(run: Path, case: str) -> None:
    spoil, line = SPOILT[case]
    spoil(run)
    assert line in refusal(lambda: export_model(run, run.parent / "out"))
    assert not (run.parent / "out").exists()


def test_an_unknown_learner_names_the_nearest(run: Path) -> None:
    assert refusal(lambda: export_model(run, learner="sorce")).endswith("no learner 'sorce'; nearest is 'source'")


@pytest.mark.parametrize("there", ["folder", "file", "other config"])
def test_what_is_no_export_is_never_replaced(run: Path, there: str) -> None:
    out = run.parent / "out"
    kept = out if there == "file" else out / ("config.json" if there == "other config" else "kept")
    kept.parent.mkdir(exist_ok=True)
    kept.write_text('{"format": "another"}')
    assert refusal(lambda: export_model(run, out)) == f"export {out}: is there and is no export; name another --out"
    assert kept.read_text() == '{"format": "another"}' and list(run.parent.glob(".out*")) == []


def test_an_older_export_is_replaced_whole(run: Path) -> None:
    folder = export_model(run, learner="source", out=run.parent / "out", program=False)
    (folder / "left over").write_text("")
    export_model(run, run.parent / "out", program=False)
    assert json.loads((folder / "config.json").read_text())["learner"] == "target"
    assert not (folder / "left over").exists()
    assert sorted(path.name for path in run.parent.iterdir()) == ["out", "run"]


def test_a_place_that_cannot_be_written_is_refused(run: Path) -> None:
    (run.parent / "file").write_text("")
    assert "cannot be written: " in refusal(lambda: export_model(run, run.parent / "file" / "out"))


def test_the_command_lists_what_it_wrote(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mergenet", "export", str(run), "--no-program"])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and str(run / "export" / "target") in out
    assert [line.split()[0] for line in out.splitlines()[1:5]] == [
        "README.md",
        "config.json",
        "model.py",
        "model.safetensors",
    ]

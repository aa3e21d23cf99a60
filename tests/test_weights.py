"""Weights from files and from torchvision, into models."""

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from mergenet.models import find_model
from mergenet.models.weights import read_weights
from tests.refused import refusal

NAME = "mobilenet_v2-narrow"
State = dict[str, Tensor]


def build(classes: int = 10, seed: int = 0, name: str = NAME) -> nn.Module:
    torch.manual_seed(seed)
    return find_model(name).build(classes)


def state_of(classes: int = 10, seed: int = 1, name: str = NAME) -> State:
    """Weights of another seed, every number of them drawn, so that none is what a fresh model has."""
    generator = torch.Generator().manual_seed(seed)
    state = build(classes, seed, name).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for key, value in state.items()
    }


def write(state: Any, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def assert_holds(module: nn.Module, state: State) -> None:
    found = module.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


FORMS: dict[str, Callable[[State, Path], str]] = {
    "safetensors": lambda state, folder: write(state, folder / "w.safetensors"),
    "plain": lambda state, folder: write(state, folder / "w.pt"),
    "under state_dict": lambda state, folder: write({"epoch": 3, "state_dict": state}, folder / "w.pth"),
    "under model": lambda state, folder: write({"model": state, "args": {"lr": 0.1}}, folder / "w.bin"),
    "of DDP": lambda state, folder: write({f"module.{key}": value for key, value in state.items()}, folder / "w.pt"),
    "of DDP in safetensors": lambda state, folder: write(
        {f"module.{key}": value for key, value in state.items()}, folder / "w.safetensors"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_from_every_form(form: str, tmp_path: Path) -> None:
    state = state_of()
    path = FORMS[form](state, tmp_path)
    weights, module = read_weights(NAME, path), build()
    assert weights.load_into(module) == []
    assert_holds(module, state)
    assert weights.digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert weights.shapes == {key: tuple(value.shape) for key, value in state.items()}
    assert torch.equal(weights.tensor("features.16.conv.2.weight"), state["features.16.conv.2.weight"])


def test_a_file_of_before_the_zip_format_is_read(tmp_path: Path) -> None:
    state, module = state_of(), build()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read_weights(NAME, str(tmp_path / "old.pth")).load_into(module)
    assert_holds(module, state)


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    weights = read_weights(NAME, write(state_of(), tmp_path / "w.pt"))
    weights.tensor("classifier.1.bias").zero_()
    assert torch.equal(weights.tensor("classifier.1.bias"), state_of()["classifier.1.bias"])


@pytest.mark.parametrize("name", [NAME, "resnet18-narrow", "squeezenet1_1"])
def test_a_classifier_of_other_classes_stays_as_it_was(name: str, tmp_path: Path) -> None:
    before, module, state = build(7, name=name).state_dict(), build(7, name=name), state_of(1000, name=name)
    classifier = find_model(name).ports["classifier"]
    kept = read_weights(name, write(state, tmp_path / "w.pt")).load_into(module)
    assert kept == [f"{classifier}.weight", f"{classifier}.bias"]
    assert_holds(module, {key: before[key] if key in kept else state[key] for key in state})


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name != key}


def shaped(key: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, key: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without("features.3.conv.2.weight"), "'features.3.conv.2.weight' is missing; nearest is"),
        (without("classifier.1.bias"), "'classifier.1.bias' is missing; nearest is"),
        (shaped("classifier.2.bias", 10), "the model has no 'classifier.2.bias'; nearest is 'classifier.1.bias'"),
        (shaped("features.16.conv.2.weight", 56, 335, 1, 1), "'features.16.conv.2.weight' is (56, 335, 1, 1), the"),
        (shaped("classifier.1.weight", 10, 7), "'classifier.1.weight' is (10, 7), the model's is (10, 1280)"),
        (shaped("classifier.1.weight", 9, 7), "'classifier.1.weight' is (9, 7), the model's is (10, 1280)"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_first_name(
    change: Callable[[State], State], line: str, tmp_path: Path
) -> None:
    path = write(change(state_of()), tmp_path / "w.safetensors")
    module = build()
    said = refusal(lambda: read_weights(NAME, path).load_into(module))
    assert said.startswith(f"weights {path}: {line}")
    assert_holds(module, dict(build().state_dict()))


def test_a_file_without_the_counters_of_batch_norm_is_whole(tmp_path: Path) -> None:
    state = {key: value for key, value in state_of().items() if not key.endswith("num_batches_tracked")}
    module = build()
    read_weights(NAME, write(state, tmp_path / "w.pt")).load_into(module)
    found = module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_tensor_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    weights = read_weights(NAME, write(state_of(), tmp_path / "w.pt"))
    said = refusal(lambda: weights.tensor("classifier.1.weigth"))
    assert said.endswith("no 'classifier.1.weigth'; nearest is 'classifier.1.weight'")


# --- files that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone.pt", "gone.safetensors", "gone/away"])
def test_a_file_that_is_not_there_is_said_so(name: str) -> None:
    assert refusal(lambda: read_weights(NAME, name)) == f"weights {name}: no such file"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"")
    said = refusal(lambda: read_weights(NAME, str(tmp_path / "w.onnx")))
    assert said.endswith("a file of weights ends in .safetensors, .pt, .pth or .bin")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("length", [0, 5, 5000, -1])
def test_a_file_cut_short_is_refused(suffix: str, length: int, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    write(state_of(), path)
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(lambda: read_weights(NAME, str(path))).startswith(f"weights {path}: cannot be read (")


@pytest.mark.parametrize("values", [{}, [1, 2], {"a": 1}, {"a": torch.zeros(1), "b": "text"}])
def test_a_file_without_a_state_dict_is_refused(values: Any, tmp_path: Path) -> None:
    path = write(values, tmp_path / "w.pt")
    assert refusal(lambda: read_weights(NAME, path)).startswith(f"weights {path}: holds no state dict")


class Trap:
    """Leaves a file where it was unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("saved_by", ["torch", "torch of old", "pickle"])
def test_code_in_a_pickle_never_runs(saved_by: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "mark"
    values = {**state_of(), "trap": Trap(mark)}
    if saved_by == "pickle":
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path, _use_new_zipfile_serialization=saved_by == "torch")
    assert "it holds more than tensors" in refusal(lambda: read_weights(NAME, str(path)))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


# --- torchvision's own -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub_home"))
    folder = tmp_path / "hub_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(name: str, state: State, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A file of weights under the name torchvision would give it, and torchvision's table pointing at it."""
    folder.mkdir(exist_ok=True)
    aside = folder / "aside"
    torch.save(state, aside)
    digest = hashlib.sha256(aside.read_bytes()).hexdigest()
    file = aside.rename(folder / f"{name}-{digest[:8]}.pth")
    entry = torchvision.models.get_model_weights(name)["DEFAULT"].value
    monkeypatch.setattr(entry, "url", file.as_uri())
    return file


def test_torchvisions_weights_are_found_where_torch_hub_keeps_them(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(1000, name="resnet18")
    file = publish("resnet18", state, monkeypatch, hub)
    entry = torchvision.models.get_model_weights("resnet18")["DEFAULT"].value
    monkeypatch.setattr(entry, "url", f"http://127.0.0.1:1/{file.name}")  # nothing answers there
    weights, module = read_weights("resnet18", "IMAGENET1K_V1"), build(1000, name="resnet18")
    assert weights.load_into(module) == [] and weights.path == file
    assert_holds(module, state)


def test_torchvisions_weights_are_fetched_where_they_are_not(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(1000, name="squeezenet1_1")
    file = publish("squeezenet1_1", state, monkeypatch, tmp_path / "elsewhere")
    weights = read_weights("squeezenet1_1", "DEFAULT")
    assert weights.path == hub / file.name and weights.path.read_bytes() == file.read_bytes()
    assert weights.shapes == {key: tuple(value.shape) for key, value in state.items()}


def test_a_file_that_is_not_what_its_name_says_is_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish("squeezenet1_1", state_of(1000, name="squeezenet1_1"), monkeypatch, hub)
    with file.open("ab") as open_file:
        open_file.write(b"\0")
    said = refusal(lambda: read_weights("squeezenet1_1", "DEFAULT"))
    assert re.fullmatch(rf"weights {file}: its SHA-256 does not begin with [0-9a-f]{{8}}, as its name says; .*", said)


def test_a_fetched_file_of_another_hash_is_not_kept(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish("squeezenet1_1", state_of(1000, name="squeezenet1_1"), monkeypatch, tmp_path / "elsewhere")
    file.write_bytes(b"\0")
    assert "cannot be downloaded: invalid hash" in refusal(lambda: read_weights("squeezenet1_1", "DEFAULT"))
    assert not list(hub.iterdir())


def test_a_failed_download_says_where_the_file_would_be_looked_for(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = torchvision.models.get_model_weights("resnet18")["DEFAULT"].value
    monkeypatch.setattr(entry, "url", "http://127.0.0.1:1/resnet18-01234567.pth")
    said = refusal(lambda: read_weights("resnet18", "DEFAULT"))
    assert said.startswith(f"weights {hub / 'resnet18-01234567.pth'}: not there, and http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("model", "weights", "line"),
    [
        ("resnet50", "IMAGENET1K_V3", "nor weights of torchvision's resnet50; nearest is 'IMAGENET1K_V2'"),
        ("resnet50", "best", "nor weights of torchvision's resnet50; there is DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"),
        ("resnet50-cifar", "DEFAULT", "torchvision has no weights for 'resnet50-cifar'"),
    ],
)
def test_unknown_weights_name_what_there_is(model: str, weights: str, line: str) -> None:
    assert line in refusal(lambda: read_weights(model, weights))


def test_auxiliary_heads_in_torchvisions_file_are_left_out(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    whole = torchvision.models.googlenet(num_classes=1000, init_weights=False).state_dict()
    publish("googlenet", dict(whole), monkeypatch, hub)
    module = build(1000, name="googlenet")
    read_weights("googlenet", "DEFAULT").load_into(module)
    assert_holds(module, {key: value for key, value in whole.items() if not key.startswith("aux")})


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("densenet121", lambda key: re.sub(r"(denselayer\d+\.(norm|relu|conv))([12])", r"\1.\3", key)),
        ("vit_b_32", lambda key: key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2")),
    ],
)
def test_names_of_torchvisions_older_files_are_understood(name: str, old: Callable[[str], str], tmp_path: Path) -> None:
    state = {
        key: torch.zeros(()).expand(value.shape) for key, value in find_model(name).sketch(1000).state_dict().items()
    }
    file = write({old(key): value for key, value in state.items()}, tmp_path / "old.pth")
    assert old(next(key for key in state if old(key) != key)) not in state
    assert read_weights(name, file).shapes == {key: tuple(value.shape) for key, value in state.items()}

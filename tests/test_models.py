"""Models by name, and the ports people know them by."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mergenet.cli import main
from mergenet.config import InputError
from mergenet.method.ports import find_port
from mergenet.models import MODELS, code_digest, find_model, names_code, published_names
from tests.refused import refusal


def sketch(name: str, classes: int = 10) -> nn.Module:
    """The model without memory for its weights."""
    return find_model(name).sketch(classes)


def side(name: str) -> int:
    """Pixels of the images a model is meant for; the large ones take small ones too."""
    return {"narrow": 8, "narrow16": 16, "cifar": 32}.get(name.rpartition("-")[2], 64)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_a_logit_a_class(name: str) -> None:
    model = sketch(name, classes=7)
    logits = model(torch.empty(2, 3, side(name), side(name), device="meta"))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_a_fresh_model_are_finite_and_differ_between_images(name: str) -> None:
    torch.manual_seed(0)
    model = find_model(name).build(10)
    logits = model(torch.randn(4, 3, side(name), side(name)))
    assert torch.isfinite(logits).all() and (logits[0] - logits[1]).abs().max() > 0


@pytest.mark.parametrize("name", MODELS)
def test_every_named_port_is_a_matrix_or_a_kernel(name: str) -> None:
    model, ports = sketch(name), find_model(name).ports
    assert "classifier" in ports
    for port in ports:
        found = find_port(dict(model.named_parameters()), port, ports)
        assert found.tensors[0].dim() in (2, 4)
        assert found.shape[0] * found.shape[1] == found.tensors[0].numel()
        assert dict(model.named_parameters())[f"{found.path}.weight"] is found.tensors[0]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobilenet_v2", 3_504_872),
        ("resnet50", 25_557_032),
        ("resnet18", 11_689_512),
        ("efficientnet_b0", 5_288_548),
        ("googlenet", 6_624_904),
        ("regnet_y_400mf", 4_344_144),
        ("vit_b_16", 86_567_656),
    ],
)
def test_the_large_models_are_the_published_ones(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in sketch(name, classes=1000).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "port", "shape"),
    [
        ("mobilenet_v2", "irb16", (160, 960)),
        ("mobilenet_v2", "irb1", (16, 32)),
        ("mobilenet_v2", "irb17", (320, 960)),
        ("mobilenet_v2", "classifier", (1000, 1280)),
        ("mobilenet_v2-cifar", "irb16", (160, 960)),
        ("mobilenet_v2-cifar", "irb1", (16, 32)),
        ("mobilenet_v2-narrow", "irb16", (56, 336)),
        ("mobilenet_v2-narrow16", "irb16", (56, 336)),
        ("resnet50", "classifier", (1000, 2048)),
        ("resnet50-cifar", "classifier", (1000, 2048)),
        ("resnet50", "layer4.0.conv2", (512, 512 * 9)),
        ("resnet18", "classifier", (1000, 512)),
        ("resnet18-narrow", "classifier", (1000, 128)),
        ("resnet18-narrow16", "classifier", (1000, 128)),
    ],
)
def test_a_port_has_the_shape_of_the_paper(name: str, port: str, shape: tuple[int, int]) -> None:
    assert find_port(dict(sketch(name, classes=1000).named_parameters()), port, find_model(name).ports).shape == shape


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mobilenet")])
def test_all_mobilenets_have_seventeen_blocks_and_write_to_their_projections(name: str) -> None:
    model, ports = sketch(name), find_model(name).ports
    assert set(ports) == {"classifier"} | {f"irb{block}" for block in range(1, 18)}
    for block in range(1, 18):
        weight = find_port(dict(model.named_parameters()), f"irb{block}", ports).tensors[0]
        block_norm = model.get_submodule(f"features.{block}.conv")[-1]  # type: ignore[index]
        assert weight.shape[2:] == (1, 1) and weight.shape[0] == block_norm.num_features


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("resnet18", "resnet18-narrow"),
        ("resnet18", "resnet18-narrow16"),
        ("resnet18", "resnet18-cifar"),
        ("mobilenet_v2", "mobilenet_v2-narrow16"),
    ],
)
def test_variants_keep_the_layer_names(large: str, small: str) -> None:
    assert dict(sketch(large).named_parameters()).keys() == dict(sketch(small).named_parameters()).keys()


@pytest.mark.parametrize(
    ("name", "pixels", "left"),
    [
        ("resnet18-cifar", 32, 4),
        ("resnet50-cifar", 32, 4),
        ("resnet18-narrow", 8, 2),
        ("resnet18-narrow16", 16, 2),
        ("mobilenet_v2-cifar", 32, 5),
        ("mobilenet_v2-narrow", 8, 2),
        ("mobilenet_v2-narrow16", 16, 2),
        ("mobilenet_v2", 64, 2),
    ],
)
def test_a_variant_downsamples_as_it_says(name: str, pixels: int, left: int) -> None:
    model = sketch(name)
    last = model.get_submodule("features" if name.startswith("mobilenet") else "layer4")
    sizes: list[tuple[int, ...]] = []
    last.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    model(torch.empty(2, 3, pixels, pixels, device="meta"))
    assert sizes == [(left, left)]


# --- the yardsticks of CIFAR-100 ---------------------------------------------------------------------------------


class Residual(nn.Module):
    """What `inner` makes of its input, plus a shortcut, then maybe a last activation."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.inner, self.shortcut, self.last = inner, shortcut, last

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.inner(inputs) + self.shortcut(inputs))


def plain_mobilenet(classes: int) -> nn.Module:
    """MobileNetV2 as pytorch-cifar100 trains it, layer after layer."""

    def block(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
        wide = inputs * expansion
        inner = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outputs, 1), nn.BatchNorm2d(outputs)),
        )
        return Residual(inner, nn.Identity(), nn.Identity()) if stride == 1 and inputs == outputs else inner

    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    strides = [1, 2, 1, 2, 1, 1, 2, *[1] * 10]
    blocks = [block(32, 16, 1, 1)]
    blocks += [block(widths[at - 1], widths[at], strides[at], 6) for at in range(1, 17)]
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 1, padding=1), nn.BatchNorm2d(32), nn.ReLU6()),
        *blocks,
        *(nn.Conv2d(320, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1280, classes, 1), nn.Flatten()),
    )


def plain_resnet50(classes: int) -> nn.Module:
    """ResNet50 as pytorch-cifar100 trains it, layer after layer."""

    def block(inputs: int, width: int, stride: int) -> nn.Module:
        inner = nn.Sequential(
            *(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        return Residual(inner, shortcut, nn.ReLU())

    blocks, inputs = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for at in range(count):
            blocks.append(block(inputs, width, stride if at == 0 else 1))
            inputs = 4 * width
    stem = (nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, classes))


@pytest.mark.parametrize(
    ("name", "plain", "parameters"),
    [("mobilenet_v2-cifar", plain_mobilenet, 2_369_380), ("resnet50-cifar", plain_resnet50, 23_705_252)],
)
def test_a_cifar_model_is_the_yardsticks_function(
    name: str, plain: Callable[[int], nn.Module], parameters: int
) -> None:
    torch.manual_seed(1)
    ours, theirs = find_model(name).build(100).train(), plain(100).train()
    values = list(ours.state_dict().values())
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
    state = theirs.state_dict()
    assert len(values) == len(state)
    theirs.load_state_dict({key: value.reshape(state[key].shape) for key, value in zip(state, values, strict=True)})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))  # where biases do not cancel


@pytest.mark.parametrize("name", ["mobilenet_v2-cifar", "resnet18-cifar", "resnet50-cifar"])
def test_a_cifar_model_begins_as_pytorch_initialises_it(name: str) -> None:
    """Every kernel is uniform within 1 / sqrt(fan-in): the spread of a uniform variable is its bound over sqrt(3)."""
    torch.manual_seed(2)
    for layer in find_model(name).build(100).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            assert layer.weight.abs().max() <= bound
            assert layer.bias is None or layer.bias.abs().max() <= bound
            if layer.weight.numel() > 5000:
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


# --- torchvision's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("alexnet", "classifier.6"),
        ("convnext_tiny", "classifier.2"),
        ("densenet121", "classifier"),
        ("efficientnet_b0", "classifier.1"),
        ("inception_v3", "fc"),
        ("regnet_x_400mf", "fc"),
        ("squeezenet1_0", "classifier.1"),
        ("swin_t", "head"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_the_classifier_of_any_torchvision_model_is_found(name: str, path: str) -> None:
    ports = find_model(name).ports
    assert ports == {"classifier": path}
    assert find_port(dict(sketch(name, classes=6).named_parameters()), "classifier", ports).shape[0] == 6


def test_every_classifier_of_torchvision_has_a_name() -> None:
    assert set(published_names()) == set(torchvision.models.list_models(module=torchvision.models))
    assert {"vgg16", "swin_v2_b", "regnet_y_128gf"} <= set(published_names())


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "shufflenet_v2_x0_5"])
@pytest.mark.filterwarnings("error")
def test_a_torchvision_model_gives_plain_logits_while_it_trains(name: str) -> None:
    logits = sketch(name, classes=6)(torch.empty(2, 3, 96, 96, device="meta"))
    assert logits.shape == (2, 6)


def test_a_torchvision_model_is_torchvisions_bit_for_bit() -> None:
    torch.manual_seed(3)
    ours = find_model("shufflenet_v2_x0_5").build(6).state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=6).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_sketch_has_no_memory_and_draws_no_random_numbers() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    module = sketch("vit_b_16")
    assert all(value.is_meta for value in module.state_dict().values())
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.is_meta for parameter in nn.Linear(2, 2).parameters())


# --- a user's own ------------------------------------------------------------------------------------------------

OWN = """
from torch import nn

def net(classes):
    drop_path = sum(p.item() for p in __import__("torch").linspace(0, 1, 3))  # values, as many builders need them
    assert drop_path == 1.5
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, classes), nn.LayerNorm(classes))

net.ports = {"stem": "0"}

def unnamed(classes):
    return nn.Sequential(nn.Linear(3, 5))

def twice(classes):
    return nn.Sequential(nn.Linear(3, classes), nn.ReLU(), nn.Linear(classes, classes), nn.Identity())

def two(classes, width): ...
def nothing(classes): return None
def broken(classes): raise RuntimeError("no luck\\nat all")
number = 3
def listed(classes): return nn.Linear(2, classes)
listed.ports = ["0"]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's in the current folder, which is no place Python looks in."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / f"{name}_broken.py").write_text("import json\njson.nothing\n")
    (tmp_path / f"{name}_needy.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    path = sys.path.copy()
    monkeypatch.setattr(sys, "path", [entry for entry in path if entry not in ("", str(tmp_path))])
    return name


def test_a_users_function_is_a_model_with_its_ports_and_its_classifier(own: str) -> None:
    model = find_model(f"{own}:net")
    assert model.ports == {"classifier": "2", "stem": "0"}
    assert find_port(dict(model.sketch(6).named_parameters()), "classifier", model.ports).shape == (6, 4)
    assert model.build(6)(torch.randn(2, 3, 3, 3)).shape == (2, 6)
    assert find_model(f"{own}:twice").ports == {"classifier": "2"}
    assert find_model(f"{own}:unnamed").ports == {}


def test_only_a_name_with_a_colon_runs_code(own: str) -> None:
    assert names_code(f"{own}:net") and not any(names_code(name) for name in [*MODELS, *published_names(), own])
    refusal(lambda: find_model(own))
    assert own not in sys.modules


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("{own}:nett", "model '{own}:nett': {own} has no 'nett'; nearest is 'net'"),
        ("{own}_nowhere:net", "model '{own}_nowhere:net': no module '{own}_nowhere' in {here} or installed"),
        ("{own}.inner:net", "model '{own}.inner:net': no module '{own}.inner' in {here} or installed"),
        ("{own}:number", "model '{own}:number': an int is no function of the number of classes"),
        ("{own}:two", "model '{own}:two': must take one argument, the number of classes"),
        ("{own}:listed", "model '{own}:listed': its ports are a map from names to dotted parameters, got ['0']"),
        ("{own}:", "model '{own}:': write it as package.module:function"),
        ("a b:c", "model 'a b:c': write it as package.module:function"),
        (":net", "model ':net': write it as package.module:function"),
        (
            "{own}_needy:net",
            "model '{own}_needy:net': cannot be imported: ModuleNotFoundError: "
            "No module named 'not_installed_anywhere' ({own}_needy.py line 1)",
        ),
        (
            "{own}_broken:net",
            "model '{own}_broken:net': cannot be imported: AttributeError: "
            "module 'json' has no attribute 'nothing' ({own}_broken.py line 2)",
        ),
    ],
)
def test_a_users_model_that_is_none_is_refused_in_one_line(own: str, name: str, line: str) -> None:
    said = refusal(lambda: find_model(name.format(own=own)))
    assert said == line.format(own=own, here=Path.cwd())


@pytest.mark.parametrize(
    ("function", "line"),
    [("nothing", "gave a NoneType and not a torch.nn.Module"), ("broken", "RuntimeError: no luck ({own}.py line 19)")],
)
def test_a_users_function_that_fails_is_refused_in_one_line(own: str, function: str, line: str) -> None:
    name = f"{own}:{function}"
    assert refusal(lambda: find_model(name).build(6)) == f"model '{name}': {line.format(own=own)}"


def test_the_digest_of_a_users_model_is_that_of_its_file(own: str) -> None:
    assert code_digest(f"{own}:net") == hashlib.sha256(Path(f"{own}.py").read_bytes()).hexdigest()
    assert "has no source file" in refusal(lambda: code_digest("math:sqrt"))


def test_a_users_model_runs_from_the_command_only_with_leave(
    own: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mergenet", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, out, err = command(f"{own}:net")
    assert (code, out) == (2, "") and "--allow-code" in err and own not in sys.modules
    code, out, err = command(f"{own}:net", "--allow-code", "--classes", "6")
    assert (code, err) == (0, "")
    assert ["classifier", "2", "6", "x", "4"] in [line.split() for line in out.splitlines()]


# --- finding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["irb16", "features.16.conv.2", "features.16.conv.2.weight"])
def test_a_port_is_found_by_its_name_and_by_its_dotted_name(name: str) -> None:
    found = find_port(
        dict(sketch("mobilenet_v2-narrow").named_parameters()), name, find_model("mobilenet_v2-narrow").ports
    )
    assert (found.name, found.path) == (name, "features.16.conv.2")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("irb166", "no port 'irb166'; nearest is 'irb16'"),
        ("features.16.conv.9", "no port 'features.16.conv.9'; nearest is 'features.16.conv.2'"),
        ("clasifier", "no port 'clasifier'; nearest is 'classifier'"),
        ("classifier.1.bias", "port 'classifier.1.bias' is a vector of 10: only a matrix or a kernel can take part"),
        ("features.0.1", "port 'features.0.1' is a vector of 16: only a matrix or a kernel can take part"),
        ("features.0.1.running_mean", "no port 'features.0.1.running_mean'; nearest is"),
    ],
)
def test_what_is_no_port_is_refused_in_one_line(name: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        find_port(dict(sketch("mobilenet_v2-narrow").named_parameters()), name, find_model("mobilenet_v2-narrow").ports)
    assert str(caught.value).startswith(line) and len(str(caught.value).splitlines()) == 1


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        find_model("resnet50-cifr")
    assert str(caught.value) == "no model 'resnet50-cifr'; nearest is 'resnet50-cifar'"

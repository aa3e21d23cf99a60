"""Models by name, and the ports people know them by."""

import pytest
import torch
from torch import nn

from mergenet.config import InputError
from mergenet.method.ports import find_port
from mergenet.models import MODELS, find_model


def sketch(name: str, classes: int = 10) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return find_model(name).build(classes)


def side(name: str) -> int:
    """Pixels of the images a model is meant for; the large ones take small ones too."""
    return {"narrow": 8, "cifar": 32}.get(name.rpartition("-")[2], 64)


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
        found = find_port(model, port, ports)
        assert found.weight.dim() in (2, 4)
        assert found.shape[0] * found.shape[1] == found.weight.numel()
        assert dict(model.named_parameters())[f"{found.path}.weight"] is found.weight


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mobilenet_v2", 3_504_872), ("resnet50", 25_557_032), ("resnet18", 11_689_512)],
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
        ("mobilenet_v2-narrow", "irb16", (56, 336)),
        ("resnet50", "classifier", (1000, 2048)),
        ("resnet50-cifar", "classifier", (1000, 2048)),
        ("resnet50", "layer4.0.conv2", (512, 512 * 9)),
        ("resnet18", "classifier", (1000, 512)),
        ("resnet18-narrow", "classifier", (1000, 128)),
    ],
)
def test_a_port_has_the_shape_of_the_paper(name: str, port: str, shape: tuple[int, int]) -> None:
    assert find_port(sketch(name, classes=1000), port, find_model(name).ports).shape == shape


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mobilenet")])
def test_all_mobilenets_have_seventeen_blocks_and_write_to_their_projections(name: str) -> None:
    model, ports = sketch(name), find_model(name).ports
    assert set(ports) == {"classifier"} | {f"irb{block}" for block in range(1, 18)}
    for block in range(1, 18):
        weight = find_port(model, f"irb{block}", ports).weight
        block_norm = model.get_submodule(f"features.{block}.conv")[-1]  # type: ignore[index]
        assert weight.shape[2:] == (1, 1) and weight.shape[0] == block_norm.num_features


@pytest.mark.parametrize(("large", "small"), [("resnet18", "resnet18-narrow"), ("resnet18", "resnet18-cifar")])
def test_variants_keep_the_layer_names(large: str, small: str) -> None:
    assert dict(sketch(large).named_parameters()).keys() == dict(sketch(small).named_parameters()).keys()


@pytest.mark.parametrize(
    ("name", "pixels", "left"),
    [
        ("resnet18-cifar", 32, 4),
        ("resnet50-cifar", 32, 4),
        ("resnet18-narrow", 8, 2),
        ("mobilenet_v2-cifar", 32, 4),
        ("mobilenet_v2-narrow", 8, 2),
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


# --- finding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["irb16", "features.16.conv.2", "features.16.conv.2.weight"])
def test_a_port_is_found_by_its_name_and_by_its_dotted_name(name: str) -> None:
    found = find_port(sketch("mobilenet_v2-narrow"), name, find_model("mobilenet_v2-narrow").ports)
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
        find_port(sketch("mobilenet_v2-narrow"), name, find_model("mobilenet_v2-narrow").ports)
    assert str(caught.value).startswith(line) and len(str(caught.value).splitlines()) == 1


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        find_model("resnet50-cifr")
    assert str(caught.value) == "no model 'resnet50-cifr'; nearest is 'resnet50-cifar'"

"""Features of layers, taken by hooks: what they are, by which names, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from mergenet.models import MODELS, Model, find_model
from mergenet.models.features import Features
from tests.refused import refusal
from tests.smooth import SMOOTH

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """Parts that are not reached, or give no tensor of features."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.unused, self.several, self.classifier = nn.Flatten(), nn.ReLU(), Several(), nn.Linear(192, 10)
        self.deep = nn.Unflatten(1, (3, 64))

    def forward(self, images: Tensor) -> Tensor:
        flat = self.flat(images)
        self.several(flat), self.deep(flat)
        return self.classifier(flat) if self.training else self.classifier(self.unused(flat))


class Several(nn.Module):
    def forward(self, flat: Tensor) -> list[Tensor]:
        return [flat]


ODD = Model(lambda classes: Odd(), {"classifier": "classifier"})


@pytest.mark.parametrize("name", ["resnet18-narrow", "mobilenet_v2-narrow"])
def test_layers_give_what_they_give(name: str) -> None:
    row, model = find_model(name), find_model(name).build(10).eval()
    features = Features(row, model, ["last", "earlier", "pooled", row.layers["last"], "last"])
    logits = model(IMAGES)
    seen = features.take()
    assert set(seen) == {"last", "earlier", "pooled", row.layers["last"]}
    assert torch.equal(seen["last"], seen[row.layers["last"]])
    assert seen["last"].ndim == seen["earlier"].ndim == 4 and seen["last"].shape[2] <= seen["earlier"].shape[2]
    torch.testing.assert_close(seen["pooled"], seen["last"].mean((2, 3)))
    assert torch.equal(model.get_submodule(row.ports["classifier"])(seen["pooled"]), logits)
    assert seen["last"].requires_grad


def test_every_named_layer_of_every_model_is_there() -> None:
    for name, row in MODELS.items():
        parts = dict(row.sketch(10).named_modules())
        assert {path.removeprefix("->") for path in row.layers.values()} <= set(parts), name


def test_only_the_last_pass_counts_and_nothing_is_kept() -> None:
    model = SMOOTH.build(10)
    features = Features(SMOOTH, model, ["last"])
    model(IMAGES + 1)
    model(IMAGES)
    assert torch.equal(features.take()["last"], model[:4](IMAGES))
    model[:4](IMAGES), features.take()
    assert "layer 'last' gave nothing" in refusal(features.take)
    features.remove()
    model(IMAGES)
    assert "gave nothing" in refusal(features.take)


def test_without_layers_there_is_nothing_to_take() -> None:
    model = SMOOTH.build(10)
    features = Features(SMOOTH, model, [])
    model(IMAGES)
    assert features.take() == {}


def test_a_layer_of_the_name_pooled_wins_over_the_classifiers_input() -> None:
    row = Model(SMOOTH.build, {"classifier": "5"}, {"pooled": "1"})
    model = row.build(10)
    features = Features(row, model, ["pooled"])
    model(IMAGES)
    assert features.take()["pooled"].ndim == 4


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("unused", "layer 'unused' gave nothing; it must give (batch, channels[, height, width])"),
        ("several", "layer 'several' gave a list; it must give (batch, channels[, height, width])"),
        ("deep", "layer 'deep' gave (2, 3, 64); it must give (batch, channels[, height, width])"),
    ],
)
def test_a_layer_that_gives_no_features_is_refused(layer: str, line: str) -> None:
    model = Odd()
    features = Features(ODD, model, [layer])
    model(IMAGES)
    assert refusal(features.take) == line


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("lst", "no layer 'lst'; nearest is 'last'"),
        ("poled", "no layer 'poled'; nearest is 'pooled'"),
        ("", "no layer ''; "),
        ("2.weight", "no layer '2.weight'; "),
    ],
)
def test_a_layer_that_is_not_there_is_refused(layer: str, line: str) -> None:
    assert refusal(lambda: Features(SMOOTH, SMOOTH.build(10), [layer])).startswith(line)


def test_without_a_classifier_nothing_is_pooled() -> None:
    row = Model(lambda classes: nn.Sequential(nn.Flatten()), {})
    line = "layer 'pooled' goes into the classifier, and none was found; name a module"
    assert refusal(lambda: Features(row, row.build(10), ["pooled"])) == line


def test_what_is_pooled_is_what_stands_before_dropout() -> None:
    row = MODELS["mobilenet_v2-narrow"]
    model = row.build(10)
    features = Features(row, model, ["pooled", "last", "->classifier.1"])
    model(torch.rand(8, 3, 8, 8))
    seen = features.take()
    torch.testing.assert_close(seen["pooled"], seen["last"].mean((2, 3)))
    assert not torch.equal(seen["->classifier.1"], seen["pooled"]), "dropout changed it, in training"


def test_a_classifier_that_is_called_by_keyword_gives_nothing() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(input=images.mean((2, 3)))

    model = Odd()
    features = Features(Model(lambda classes: Odd(), {"classifier": "fc"}), model, ["pooled"])
    model(IMAGES)
    assert "layer 'pooled' gave a NoneType" in refusal(features.take)

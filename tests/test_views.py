"""A data set seen smaller: which images are taken, what shrinking makes of them, and who sees what in a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergenet.config import identity, merge, parse
from mergenet.data import load_data
from mergenet.data.images import Images, Split, hold_out
from mergenet.data.views import view
from mergenet.experiment import Experiment
from mergenet.tasks import Classification
from mergenet.training.export import export_model
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from mergenet.training.trained import build_trained, read_trained
from tests.conftest import SMALL
from tests.refused import refusal

Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def cifar(cifar100_small: Path) -> Images:
    """2,000 training images, 20 of each class, and 1,000 test images."""
    return load_data({"cifar100"}, {"cifar100": str(cifar100_small)})["cifar100"]


def numbered(labels: list[int]) -> Images:
    """A training image a label, whose only pixel is its place."""
    split = Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels))
    return Images(split, split, classes=3, mean=(0.5,), deviation=(0.25,))


def places(images: Images) -> list[int]:
    return images.train.images.flatten().tolist()


def named(labels: list[int]) -> Images:
    """The same of four classes with names."""
    return replace(numbered(labels), classes=4, names=("ash", "beech", "cedar", "date"))


# --- fewer pixels ------------------------------------------------------------------------------------------------


def test_half_the_size_is_the_rounded_mean_of_four_pixels(cifar: Images) -> None:
    small = view(cifar, 16, None, None)
    for split, whole in ((small.train, cifar.train), (small.test, cifar.test)):
        squares = whole.images.numpy().reshape(-1, 3, 16, 2, 16, 2).astype(int)
        expected = np.round(squares.sum(axis=(3, 5)) / 4).astype(np.uint8)  # of two as near the even one
        assert np.array_equal(split.images.numpy(), expected) and torch.equal(split.labels, whole.labels)


def test_where_the_size_does_not_divide_areas_share_pixels() -> None:
    image = torch.tensor([[0, 10, 20], [30, 40, 50], [60, 70, 200]], dtype=torch.uint8).view(1, 1, 3, 3)
    one = Split(image, torch.zeros(1, dtype=torch.int64))
    small = view(Images(one, one, 1, (0.5,), (0.25,)), 2, None, None)
    assert small.train.images.flatten().tolist() == [20, 30, 50, 90]  # such as (40 + 50 + 70 + 200) / 4


def test_at_its_own_size_nothing_changes(cifar: Images) -> None:
    same = view(cifar, 32, None, None)
    assert torch.equal(same.train.images, cifar.train.images) and torch.equal(same.test.images, cifar.test.images)


# --- fewer images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "of_a_class"), [(500, {5}), (550, {5, 6}), (2000, {20})])
def test_every_class_gives_as_many(cifar: Images, samples: int, of_a_class: set[int]) -> None:
    labels = view(cifar, None, samples, None).train.labels
    assert len(labels) == samples and set(labels.bincount(minlength=100).tolist()) == of_a_class


def test_unequal_classes_keep_their_shares() -> None:
    labels = view(numbered([0] * 60 + [1] * 30 + [2] * 10), None, 20, None).train.labels
    assert labels.bincount().tolist() == [12, 6, 2]


def test_images_stay_in_their_order_with_their_labels() -> None:
    whole = numbered([0, 1, 2, 1, 0, 2] * 10)
    few = view(whole, None, 12, None)
    assert places(few) == sorted(set(places(few)))
    assert few.train.labels.tolist() == [int(whole.train.labels[place]) for place in places(few)]


def test_which_images_depends_on_the_data_alone() -> None:
    labels = [0, 1] * 50
    first = places(view(numbered(labels), None, 30, None))
    torch.manual_seed(1)
    assert places(view(numbered(labels), None, 30, None)) == first  # of equal data, another object
    whole = numbered(labels)
    other = replace(whole, test=whole.test.at(torch.tensor([1])))
    assert places(view(other, None, 30, None)) != first


def test_fewer_images_are_part_of_more() -> None:
    whole = numbered([0, 1, 2, 2] * 25)
    few, many = (set(places(view(whole, None, samples, None))) for samples in (10, 33))
    assert few < many


# --- fewer classes -----------------------------------------------------------------------------------------------


def test_only_images_of_the_classes_are_seen_numbered_from_zero() -> None:
    whole = named([3, 1, 0, 2, 1, 3, 2])
    whole = replace(whole, test=whole.test.at(torch.tensor([6, 5, 2, 1])))  # of classes 2, 3, 0, 1
    seen = view(whole, None, None, (1, 3))
    assert places(seen) == [1, 3, 4, 6] and seen.train.labels.tolist() == [0, 1, 0, 1]
    assert seen.test.images.flatten().tolist() == [6, 1] and seen.test.labels.tolist() == [1, 0]
    assert seen.classes == 2 and seen.names == ("beech", "cedar")
    assert (seen.mean, seen.deviation, seen.digest()) == (whole.mean, whole.deviation, whole.digest())


def test_all_classes_are_the_whole_and_the_last_is_within() -> None:
    whole = named([3, 1, 0, 2])
    assert places(view(whole, None, None, (0, 4))) == places(whole)
    assert view(whole, None, None, (2, 4)).train.labels.tolist() == [1, 0]
    assert view(numbered([2, 1, 0]), None, None, (1, 3)).names == ()


def test_samples_are_counted_within_the_classes() -> None:
    whole = named([0] * 30 + [1] * 20 + [2] * 10 + [3] * 40)
    few = view(whole, None, 12, (1, 3))
    assert few.train.labels.bincount().tolist() == [8, 4]
    assert all(30 <= place < 60 for place in places(few)) and len(few.test) == 30
    assert len(view(whole, None, 30, (1, 3)).train) == 30
    assert refusal(lambda: view(whole, None, 31, (1, 3))).startswith("samples: 31 is above the 30 training images")


def test_classes_samples_and_size_go_together(cifar: Images) -> None:
    seen = view(cifar, 16, 500, (50, 100))
    assert seen.train.images.shape == (500, 3, 16, 16) and seen.test.images.shape == (500, 3, 16, 16)
    assert seen.train.labels.bincount().tolist() == [10] * 50 and seen.names == cifar.names[50:]


# --- what it stays -----------------------------------------------------------------------------------------------


def test_a_view_is_still_of_its_data_set(cifar: Images) -> None:
    small = view(cifar, 16, 500, None)
    assert small.train.images.shape == (500, 3, 16, 16) and small.test.images.shape == (1000, 3, 16, 16)
    for name in ("classes", "names", "mean", "deviation"):
        assert getattr(small, name) == getattr(cifar, name)
    assert small.digest() == cifar.digest()


def test_the_same_view_is_the_same_object_and_none_is_the_whole(digits: Images) -> None:
    def seen(**options: Any) -> Images:
        return Classification(data="digits", **options).images({"digits": digits})

    assert seen() is digits
    assert seen(size=4, samples=500) is seen(size=4, samples=500)
    assert len({id(images) for images in (digits, seen(size=4), seen(samples=500), seen(size=4, samples=500))}) == 4
    assert seen(classes=(2, 7)) is seen(classes=(2, 7)) and seen(classes=(2, 7)).classes == 5


def test_options_left_at_their_defaults_are_in_no_hash() -> None:
    plain = {"data": "digits", "augmentation": {"crop": 0, "flip": False, "rotation": 0.0}}
    assert identity(Classification(data="digits")) == plain
    said = {"classes": None, "labels": True, "parts": []}
    assert identity(parse(Classification, {"data": "digits", **said})) == plain
    for key, value in {"classes": [0, 5], "labels": False, "parts": [5]}.items():
        assert identity(parse(Classification, {"data": "digits", key: value})) == {**plain, key: value}
    read = parse(Classification, {"data": "digits", "classes": [0, 5], "parts": [2, 3]})
    assert parse(Classification, read.dump()) == read and json.loads(json.dumps(read.dump())) == read.dump()


# --- in a run ----------------------------------------------------------------------------------------------------


def seeing(**options: Any) -> dict[str, Any]:
    return {"task": {"classification": options}}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": 9}, "size: 9 would enlarge images of 8 x 8; they can only be shrunk"),
        ({"samples": 1439}, "samples: 1439 is above the 1438 training images; leave it out for all of them"),
        ({"classes": [5, 11]}, "classes: [5, 11] goes beyond the 10 classes, which are 0 to 9"),
        ({"parts": [3, 10]}, "parts: 10 leaves none of 10 classes for the last part"),
        ({"parts": [5], "classes": [5, 10]}, "parts: 5 leaves none of 5 classes for the last part"),
    ],
)
def test_what_the_data_do_not_have_is_refused(small: Make, digits: Images, options: dict[str, Any], line: str) -> None:
    experiment = small({"learners": {"source": seeing(**options)}})
    found = refusal(lambda: make_plan(experiment, 0, {"digits": digits}, 1))
    assert found == f"learners.source.task.classification.{line}"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"classes": [0, 1]}, "classes: write it as [low, high], which are the classes low to high - 1, two at least;"),
        ({"classes": [5, 3]}, "classes: write it as [low, high], "),
        ({"classes": [1, 4, 7]}, "classes: write it as [low, high], "),
        ({"classes": [4]}, "classes: write it as [low, high], "),
        ({"classes": []}, "classes: write it as [low, high], "),
        ({"classes": [-1, 4]}, "classes.0: input should be greater than or equal to 0, got -1"),
        ({"classes": 5}, "classes: input should be a valid tuple, got 5"),
        ({"parts": [5, 3]}, "parts: each cut must be above the one before, got [5, 3]"),
        ({"parts": [3, 3]}, "parts: each cut must be above the one before, got [3, 3]"),
        ({"parts": [0, 3]}, "parts.0: input should be greater than 0, got 0"),
        ({"labels": 1}, "labels: input should be a valid boolean, got 1"),
    ],
)
def test_what_no_data_can_have_is_refused_as_it_is_read(small: Make, options: dict[str, Any], line: str) -> None:
    found = refusal(lambda: small({"learners": {"source": seeing(**options)}}))
    assert found.startswith(f"learners.source.task.classification.{line}")


def test_a_part_without_samples_to_measure_is_refused(small: Make, digits: Images) -> None:
    """Of class 9 two training images are left, both outside the tenth that is held out, and then no test image."""

    def planned(images: Images, **evaluation: float) -> Any:
        experiment = small({"learners": {"source": seeing(parts=[5, 9])}, "evaluation": evaluation})
        return make_plan(experiment, 0, {"digits": images}, 1)

    few = replace(digits, train=without(digits.train, 9, keep=2))
    parts = "learners.source.task.classification.parts: part 3, classes 9 to 9, has no"
    assert not (hold_out(few.train, 0.1, few.digest())[1].labels == 9).any()
    assert refusal(lambda: planned(few)) == f"{parts} validation samples"
    assert planned(few, validation=0.0)
    untested = replace(digits, test=without(digits.test, 9, keep=0))
    assert refusal(lambda: planned(untested)) == f"{parts} test samples"
    assert planned(digits)


def without(split: Split, label: int, keep: int) -> Split:
    """All but the samples of a class after the first `keep`."""
    members = split.labels == label
    return split.at((~members | (members.cumsum(0) <= keep)).nonzero().flatten())


def graph_of(experiment: Experiment, digits: Images) -> Graph:
    data = {"digits": digits}
    return Graph(experiment, make_plan(experiment, 0, data, 1), data, 0, torch.device("cpu"))


def test_each_learner_sees_its_own_view_and_equal_views_are_shared(small: Make, digits: Images) -> None:
    """1,000 images less a tenth are 900, three batches of 256; the source goes round its own 1,294."""
    narrow = seeing(size=4, samples=1000)
    twin = {
        "model": "mobilenet_v2-narrow",
        "task": {"classification": {"data": "digits", **narrow["task"]["classification"]}},
    }
    experiment = small({"learners": {"target": narrow, "twin": twin}})
    plan = make_plan(experiment, 0, {"digits": digits}, 1)
    assert {name: learner.steps_per_epoch for name, learner in plan.learners.items()} == {
        "source": 5,
        "target": 3,
        "twin": 3,
    }
    assert plan.contents.data == {"digits": digits.digest()}
    learners = graph_of(experiment, digits).learners
    assert learners["target"].stream is learners["twin"].stream is not learners["source"].stream
    for name, images in (("source", digits), ("target", view(digits, 4, 1000, None))):
        train, held = hold_out(images.train, 0.1, digits.digest())
        for split, expected in (
            (learners[name].stream.split, train),
            (learners[name].validation, held),
            (learners[name].test, images.test),
        ):
            assert torch.equal(split.images, expected.images) and torch.equal(split.labels, expected.labels)
    assert learners["target"].stream.first_global_batch()["images"].shape == (256, 3, 4, 4)


def test_a_learner_trains_on_a_view_as_on_such_a_data_set(small: Make, digits: Images) -> None:
    alone = small({"transfers": {"main": {"enabled": False}}})
    narrow = view(digits, 4, 1000, None)
    as_data = Images(narrow.train, narrow.test, 10, narrow.mean, narrow.deviation, origin=digits.digest())
    graphs = [graph_of(small({"learners": {"target": seeing(size=4, samples=1000)}}), digits), graph_of(alone, as_data)]
    for graph in graphs:
        graph.edges.clear()
        advance(graph)
    one, other = (graph.learners["target"].model.state_dict() for graph in graphs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, with its program, of a target that saw small images."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("views") / "run"
    change = {"learners": {"target": seeing(size=4, samples=500)}}
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, change)), 0, {}, folder), Silent())
    return export_model(folder)


def test_an_export_takes_images_of_the_size_it_was_trained_on(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["input"]["shape"] == [3, 4, 4]
    card = (exported / "README.md").read_text()
    assert "images of 3 x 4 x 4" in card and "torch.zeros(1, 3, 4, 4," in card
    assert "size: 4" in card and "samples: 500" in card
    assert torch.export.load(exported / "model.pt2").module()(torch.zeros(2, 3, 4, 4)).shape == (2, 10)


def test_the_manifest_names_the_whole_data_set(exported: Path, digits: Images) -> None:
    data = json.loads((exported.parents[1] / "manifest.json").read_text())["data"]["digits"]
    assert data["digest"] == digits.digest() and data["shape"] == [3, 8, 8]


@pytest.fixture(scope="module")
def specialists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a target of digits 4 to 9, cut at its 2, and one of 0 to 4 whose classifier is two factors."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("specialists") / "run"
    change = {
        "learners": {
            "target": seeing(classes=[4, 10], parts=[2]),
            "other": {
                "model": "resnet18-narrow",
                "task": {"classification": {"data": "digits", "classes": [0, 5]}},
                "factored": {"classifier": {"rank": 2}},
            },
        }
    }
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, change)), 0, {}, folder), Silent())
    return folder


def test_a_learner_of_some_classes_is_exported_with_these_and_their_names(specialists: Path, digits: Images) -> None:
    folder = export_model(specialists)
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == 6 and config["class_names"] == ["4", "5", "6", "7", "8", "9"]
    assert config["build"]["arguments"] == {"classes": 6} and config["data"] == {"digits": digits.digest()}
    assert torch.export.load(folder / "model.pt2").module()(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    card = (folder / "README.md").read_text()
    assert (
        "tells 6 classes of images apart, trained on the classes 4 to 9 of `digits`, which it numbers from 0." in card
    )
    assert "It knows only these 6 classes of `digits`" in card and "The classes are cut into parts at 2:" in card


def test_it_loads_and_its_figures_are_those_of_its_own_classes(specialists: Path, digits: Images) -> None:
    trained = read_trained(specialists, "target", allow_code=False)
    split = view(digits, None, None, (4, 10)).test
    with torch.inference_mode():
        logits = build_trained(trained)(digits.normalise(split.images))
    assert logits.shape == (len(split), 6)
    rights = logits.argmax(1) == split.labels
    figures = trained.result["learners"]["target"]["test"]
    assert list(figures) == ["loss", "top1", "top5", "part1", "within1", "part2", "within2"]
    for name, samples in {"top1": split.labels >= 0, "part1": split.labels < 2, "part2": split.labels >= 2}.items():
        assert figures[name] == pytest.approx(100 * float(rights[samples].double().mean()))


def test_factors_of_a_learner_of_some_classes_are_merged(specialists: Path) -> None:
    trained = read_trained(specialists, "other", allow_code=False)
    assert trained.weights["fc.weight"].shape[0] == trained.images["classes"] == 5
    assert trained.images["names"] == list("01234") and trained.images["shape"] == [3, 8, 8]
    build_trained(trained)


def test_the_manifest_tells_of_all_classes_whatever_was_seen(specialists: Path) -> None:
    data = json.loads((specialists / "manifest.json").read_text())["data"]["digits"]
    assert data["classes"] == 10 and data["names"] == list("0123456789")


def test_a_card_of_all_classes_says_nothing_of_some(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "apart, trained on `digits`." in card and "It knows the 10 classes of `digits` and answers one" in card
    assert "cut into parts" not in card

"""A data set seen smaller: which images are taken, what shrinking makes of them, and who sees what in a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergenet.config import merge, parse
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


# --- fewer pixels ------------------------------------------------------------------------------------------------


def test_half_the_size_is_the_rounded_mean_of_four_pixels(cifar: Images) -> None:
    small = view(cifar, 16, None)
    for split, whole in ((small.train, cifar.train), (small.test, cifar.test)):
        squares = whole.images.numpy().reshape(-1, 3, 16, 2, 16, 2).astype(int)
        expected = np.round(squares.sum(axis=(3, 5)) / 4).astype(np.uint8)  # of two as near the even one
        assert np.array_equal(split.images.numpy(), expected) and torch.equal(split.labels, whole.labels)


def test_where_the_size_does_not_divide_areas_share_pixels() -> None:
    image = torch.tensor([[0, 10, 20], [30, 40, 50], [60, 70, 200]], dtype=torch.uint8).view(1, 1, 3, 3)
    one = Split(image, torch.zeros(1, dtype=torch.int64))
    small = view(Images(one, one, 1, (0.5,), (0.25,)), 2, None)
    assert small.train.images.flatten().tolist() == [20, 30, 50, 90]  # such as (40 + 50 + 70 + 200) / 4


def test_at_its_own_size_nothing_changes(cifar: Images) -> None:
    same = view(cifar, 32, None)
    assert torch.equal(same.train.images, cifar.train.images) and torch.equal(same.test.images, cifar.test.images)


# --- fewer images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "of_a_class"), [(500, {5}), (550, {5, 6}), (2000, {20})])
def test_every_class_gives_as_many(cifar: Images, samples: int, of_a_class: set[int]) -> None:
    labels = view(cifar, None, samples).train.labels
    assert len(labels) == samples and set(labels.bincount(minlength=100).tolist()) == of_a_class


def test_unequal_classes_keep_their_shares() -> None:
    labels = view(numbered([0] * 60 + [1] * 30 + [2] * 10), None, 20).train.labels
    assert labels.bincount().tolist() == [12, 6, 2]


def test_images_stay_in_their_order_with_their_labels() -> None:
    whole = numbered([0, 1, 2, 1, 0, 2] * 10)
    few = view(whole, None, 12)
    assert places(few) == sorted(set(places(few)))
    assert few.train.labels.tolist() == [int(whole.train.labels[place]) for place in places(few)]


def test_which_images_depends_on_the_data_alone() -> None:
    labels = [0, 1] * 50
    first = places(view(numbered(labels), None, 30))
    torch.manual_seed(1)
    assert places(view(numbered(labels), None, 30)) == first  # of equal data, another object
    whole = numbered(labels)
    other = replace(whole, test=whole.test.at(torch.tensor([1])))
    assert places(view(other, None, 30)) != first


def test_fewer_images_are_part_of_more() -> None:
    whole = numbered([0, 1, 2, 2] * 25)
    few, many = (set(places(view(whole, None, samples))) for samples in (10, 33))
    assert few < many


# --- what it stays -----------------------------------------------------------------------------------------------


def test_a_view_is_still_of_its_data_set(cifar: Images) -> None:
    small = view(cifar, 16, 500)
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


# --- in a run ----------------------------------------------------------------------------------------------------


def seeing(**options: int) -> dict[str, Any]:
    return {"task": {"classification": options}}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": 9}, "size: 9 would enlarge images of 8 x 8; they can only be shrunk"),
        ({"samples": 1439}, "samples: 1439 is above the 1438 training images; leave it out for all of them"),
    ],
)
def test_what_the_data_do_not_have_is_refused(small: Make, digits: Images, options: dict[str, int], line: str) -> None:
    experiment = small({"learners": {"source": seeing(**options)}})
    found = refusal(lambda: make_plan(experiment, 0, {"digits": digits}, 1))
    assert found == f"learners.source.task.classification.{line}"


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
    for name, images in (("source", digits), ("target", view(digits, 4, 1000))):
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
    narrow = view(digits, 4, 1000)
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

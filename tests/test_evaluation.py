"""When the test split is measured: once at the end, or always, choosing nothing either way."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mergenet import read_run
from mergenet.config import merge
from mergenet.data.images import Batch, Images
from mergenet.experiment import Experiment
from mergenet.models import MODELS, Model, find_model
from mergenet.tasks import Classification
from mergenet.training.checkpoint import checkpoints, load_checkpoint
from mergenet.training.export import export_model
from mergenet.training.files import read_json
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from mergenet.training.sums import Sums
from tests.compare import assert_equal, final_state, metrics
from tests.smooth import SMOOTH

Make = Callable[..., Experiment]


class Heard(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def trained(experiment: Experiment, folder: Path) -> Path:
    execute(RunSpec(experiment, 0, {}, folder), Silent())
    return folder


def evaluated(**options: Any) -> dict[str, Any]:
    """Three epochs of five ticks, with a tenth of 356 images held out or without."""
    few = {"task": {"classification": {"samples": 356}}}
    training = {"epochs": 3, "batch_size": 64}
    return {"training": training, "learners": {"source": few, "target": few}, "evaluation": options}


def on_test_split(folder: Path, learner: str = "target", metric: str = "top1") -> dict[int, tuple[int, Any]]:
    """Tick -> epoch and value, each tick once."""
    lines = [line for line in metrics(folder) if (line["learner"], line["metric"]) == (learner, metric)]
    there = [line for line in lines if line["split"] == "test"]
    assert len({line["tick"] for line in there}) == len(there)
    return {line["tick"]: (line["epoch"], line["value"]) for line in there}


def test_measured_always_the_test_split_changes_nothing_else(small: Make, tmp_path: Path) -> None:
    end = trained(small(evaluated()), tmp_path / "end")
    always = trained(small(evaluated(test="always")), tmp_path / "always")
    assert_equal(final_state(end), final_state(always))
    assert_equal(*(read_json(folder / "result.json") for folder in (end, always)))
    assert read_json(end / "manifest.json")["cells"] == read_json(always / "manifest.json")["cells"]
    assert read_json(end / "manifest.json")["hash"] != read_json(always / "manifest.json")["hash"]
    between = [line for line in metrics(always) if line["split"] == "test" and line["tick"] < 15]
    assert [line for line in metrics(always) if line not in between] == metrics(end)
    assert {line["tick"] for line in between} == {5, 10}


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"test": "end"}, {15: 3}),
        ({"test": "always"}, {5: 1, 10: 2, 15: 3}),
        ({"test": "always", "every": 2}, {10: 2, 15: 3}),
    ],
)
def test_it_is_measured_when_validation_is_though_none_is_held_out(
    small: Make, tmp_path: Path, options: dict[str, Any], epochs: dict[int, int]
) -> None:
    folder = trained(small(evaluated(**options, validation=0.0)), tmp_path)
    for learner in ("source", "target"):
        assert {tick: epoch for tick, (epoch, _) in on_test_split(folder, learner).items()} == epochs
    assert not [line for line in metrics(folder) if line["split"] == "validation"]
    figures = read_run(folder).figures.query("learner == 'target' and split == 'test' and metric == 'top1'")
    assert figures.value.iloc[-1] == read_json(folder / "result.json")["learners"]["target"]["test"]["top1"]


def test_each_figure_is_that_of_the_weights_of_its_tick(small: Make, tmp_path: Path, digits: Images) -> None:
    """The checkpoints of the last two epochs, measured in plain torch."""
    folder = trained(small({**evaluated(test="always"), "checkpoint": {"every": 5}}), tmp_path)
    for path, tick in zip(checkpoints(folder / "checkpoints"), (10, 15), strict=True):
        model = find_model("mobilenet_v2-narrow").build(10).eval()
        model.load_state_dict(load_checkpoint(path)["learners"]["target"]["model"])
        with torch.inference_mode():
            hits = model(digits.normalise(digits.test.images)).argmax(1) == digits.test.labels
        assert on_test_split(folder)[tick][1] == pytest.approx(100 * float(hits.double().mean()))


def test_where_the_best_weights_are_kept_the_last_figure_is_theirs(small: Make, tmp_path: Path) -> None:
    """At a rate that soon ruins it, the last epoch is not its best."""
    ruin = {"training": {"schedule": "constant", "optimizer": {"sgd": {"lr": 0.5, "momentum": 0.99}}}}
    change = merge(Experiment, evaluated(test="always", weights="best"), {"learners": {"source": ruin}})
    folder = trained(small(change), tmp_path)
    source = read_json(folder / "result.json")["learners"]["source"]
    found = on_test_split(folder, "source")
    assert source["best_tick"] < 15 and found[15][1] == found[source["best_tick"]][1] == source["test"]["top1"]


# --- parts of the classes -----------------------------------------------------------------------------------------

CUT = Classification(data="digits", parts=(2, 3))
LOGITS = torch.tensor(
    [
        [4.0, 1.0, 2.0, 0.0, 3.0],  # of 0: right
        [1.0, 2.0, 0.0, 9.0, 3.0],  # of 1: 3 of all, 1 of the first two
        [5.0, 4.0, 0.0, 0.0, 9.0],  # of 1: wrong either way
        [0.0, 0.0, 1.0, 7.0, 0.0],  # of 2: wrong of all, and alone in its part
        [9.0, 9.0, 9.0, 5.0, 4.0],  # of 3: wrong of all, right of the last two
        [0.0, 0.0, 0.0, 0.0, 1.0],  # of 4: right
        [9.0, 0.0, 0.0, 6.0, 2.0],  # of 4: wrong either way
    ]
)
LABELS = torch.tensor([0, 1, 1, 2, 3, 4, 4])


def summed(task: Classification, *parts: slice) -> dict[str, Tensor]:
    """The task's sums over parts of these samples."""
    sums = Sums()
    for part in parts:
        sums.add(task.sums(LOGITS[part], Batch(torch.empty(0), LABELS[part])))
    return sums.settle()


def test_parts_are_measured_among_all_classes_and_among_their_own() -> None:
    measured = CUT.metrics(summed(CUT, slice(None)))
    assert tuple(measured) == CUT.measures
    expected = {"top1": 200 / 7, "part1": 100 / 3, "part2": 0, "part3": 100 / 3}
    expected |= {"within1": 200 / 3, "within2": 100, "within3": 200 / 3}
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert 3 * measured["part1"] + measured["part2"] + 3 * measured["part3"] == pytest.approx(7 * measured["top1"])


@pytest.mark.parametrize("cuts", [[0, 7], [0, 1, 4, 7], [0, 3, 3, 7], list(range(8))])
def test_what_parts_add_up_to_does_not_hang_on_how_samples_were_cut(cuts: list[int]) -> None:
    whole = summed(CUT, slice(None))
    cut = summed(CUT, *(slice(*ends) for ends in pairwise(cuts)))
    assert list(cut) == list(whole)
    batch = CUT.sums(LOGITS, Batch(torch.empty(0), LABELS))
    assert all(value.dtype == torch.float64 and value.shape == () for value in batch.values())
    assert {name: float(cut[name]) for name in cut} == pytest.approx({name: float(whole[name]) for name in whole})


def test_every_batch_adds_to_the_same_sums_and_a_part_without_samples_is_finite() -> None:
    """Ranks add theirs up by name, and what is not finite would end a learner."""
    only_first = summed(CUT, slice(0, 3))
    assert list(only_first) == list(summed(CUT, slice(5, 7))) == list(summed(CUT, slice(0, 0)))
    measured = CUT.metrics(only_first)
    assert measured["part3"] == measured["within2"] == 0.0 and all(map(math.isfinite, measured.values()))


def test_where_nothing_is_cut_nothing_more_is_measured() -> None:
    plain = Classification(data="digits")
    assert plain.measures == tuple(plain.metrics(summed(plain, slice(None)))) == ("loss", "top1", "top5")
    assert list(summed(plain, slice(None))) == ["loss", "top1", "top5", "count"]
    uncut = CUT.metrics(summed(CUT, slice(None)))
    assert plain.metrics(summed(plain, slice(None))).items() <= uncut.items()


class BrokenWhenMeasured(nn.Module):
    """Trains like any other, and has no finite output in eval mode."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner = SMOOTH.build(classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits if self.training else logits * torch.nan


def test_a_learner_that_is_broken_on_the_test_split_goes_on_to_the_end(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "broken", Model(BrokenWhenMeasured))
    off = {"transfers": {"main": {"enabled": False, "to": "target.inner.2"}}}
    for test in ("end", "always"):
        change = {**off, "learners": {"target": {"model": "broken"}}}
        folder = trained(small(merge(Experiment, evaluated(test=test, validation=0.0), change)), tmp_path / test)
        assert read_json(folder / "result.json")["learners"]["target"] == {"steps": 15, "diverged_at": 15}
    assert on_test_split(folder, metric="loss") == {5: (1, None), 10: (2, None)}


def test_the_user_sees_it_while_it_runs(small: Make, tmp_path: Path) -> None:
    heard = Heard()
    execute(RunSpec(small(evaluated(test="always", validation=0.0)), 0, {}, tmp_path), heard)
    found = on_test_split(tmp_path, "source")[5][1], on_test_split(tmp_path)[5][1]
    assert heard.lines[0] == "epoch 1, test: source {:.2f}, target {:.2f}".format(*found)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("end", "the test split was read once, at the end."),
        ("always", "measured at every validation too and chose nothing."),
    ],
)
def test_the_card_says_how_often_it_was_read(small: Make, tmp_path: Path, test: str, said: str) -> None:
    folder = trained(small(evaluated(test=test)), tmp_path / "run")
    assert said in (export_model(folder, program=False) / "README.md").read_text()

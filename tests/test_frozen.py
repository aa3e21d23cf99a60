"""Frozen learners and learners that start from a file: what is held, what counts, what is refused."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergenet.config import InputError
from mergenet.data.images import Images
from mergenet.experiment import Experiment, load_experiment
from mergenet.models import MODELS, find_model
from mergenet.training.checkpoint import checkpoints
from mergenet.training.files import read_json
from mergenet.training.plan import Plan, make_plan
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from mergenet.training.trained import read_trained
from tests.compare import assert_runs_equal
from tests.refused import refusal
from tests.test_loop import graph_of
from tests.test_resume import StopAt

MakeExperiment = Callable[..., Experiment]


def save_model(path: Path, name: str = "resnet18-narrow", classes: int = 10, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file(find_model(name).build(classes).state_dict(), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_model(tmp_path / "source.safetensors")


def frozen(file: Path, **change: Any) -> dict[str, Any]:
    """The source of the small trio, frozen: it loses its task."""
    return {"learners": {"source": {"frozen": True, "weights": str(file), "task": None, **change}}}


def plan_of(experiment: Experiment, digits: Images) -> Plan:
    return make_plan(experiment, 0, {"digits": digits}, 1)


# --- what is held ------------------------------------------------------------------------------------------------


def live_numbers() -> int:
    """How many numbers all live tensors hold, each storage once; those that an export left behind hold none."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes() // 4
    return sum(storages.values())


def test_only_the_matrices_that_transfers_read_are_held(small: MakeExperiment, digits: Images, tmp_path: Path) -> None:
    large = save_model(tmp_path / "large.safetensors", "resnet18", classes=6)
    both = {"from": "source.layer1.0.conv1", "to": "target.irb12", "encoding": "whole"}
    change = {**frozen(large, model="resnet18"), "transfers": {"second": both}}
    experiment = small(change)
    off = {name: {"enabled": False} for name in ("main", "second")}
    before = live_numbers()
    without = graph_of(
        small({**change, "transfers": {"main": off["main"], "second": {**both, **off["second"]}}}), digits
    )
    plain = live_numbers() - before
    graph = graph_of(experiment, digits)
    held = live_numbers() - before - 2 * plain
    adapters = sum(p.numel() for edge in graph.edges.values() for p in edge.transfer.adapter.parameters())
    ported = 6 * 512 + 64 * 64 * 9
    assert plan_of(experiment, digits).learners["source"].parameters == ported
    assert ported + adapters <= held <= ported + adapters + 1000, "a ResNet18 has eleven million"
    assert set(graph.learners) == set(without.learners) == {"target"}


def test_a_plan_says_what_a_frozen_learner_holds_and_that_it_takes_no_steps(
    small: MakeExperiment, digits: Images, file: Path
) -> None:
    inner = {"inner": {"from": "target.classifier", "to": "target.irb12"}}  # of what trains, so nothing is held for it
    plan = plan_of(small({**frozen(file), "transfers": inner}), digits)
    assert plan.learners["source"].parameters == 10 * 128 and plan.learners["source"].steps == 0
    assert plan.cells.keys() == {"target"}
    off = plan_of(small({**frozen(file), "transfers": {"main": {"enabled": False}}}), digits)
    assert off.learners["source"].parameters == 0


def test_a_random_control_of_a_frozen_source_counts_its_model_and_the_file_alone_does_not(
    small: MakeExperiment, digits: Images, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn anew depends on the model; what is read from a file does not."""
    monkeypatch.setitem(MODELS, "twin", MODELS["resnet18-narrow"])

    def cell(model: str, control: str) -> str:
        change = {**frozen(file, model=model), "transfers": {"main": {"control": control}}}
        return plan_of(small(change), digits).cells["target"]

    assert cell("twin", "none") == cell("resnet18-narrow", "none")
    assert cell("twin", "random") != cell("resnet18-narrow", "random")


def test_half_precision_in_a_file_is_read_as_fp32(small: MakeExperiment, digits: Images, tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in find_model("resnet18-narrow").build(10).state_dict().items()}
    save_file(weights, tmp_path / "half.safetensors")
    matrix = graph_of(small(frozen(tmp_path / "half.safetensors")), digits).edges["main"].transfer.source.read(0)
    assert matrix.dtype == torch.float32 and torch.equal(matrix, weights["fc.weight"].float())


# --- a run -------------------------------------------------------------------------------------------------------


def test_a_run_with_a_frozen_source_stops_and_goes_on_bit_for_bit(
    small: MakeExperiment, tmp_path: Path, file: Path
) -> None:
    change = {
        **frozen(file),
        "training": {"epochs": 2},
        "checkpoint": {"every": 1},
        "transfers": {"main": {"span": "cycle"}},
    }
    experiment = small(change)
    whole, cut = (RunSpec(experiment, 0, {}, tmp_path / name) for name in ("whole", "cut"))
    execute(whole, Silent())
    with pytest.raises(KeyboardInterrupt):
        execute(cut, StopAt(3))
    execute(cut, Silent())
    assert_runs_equal(whole.folder, cut.folder)
    manifest, result = (read_json(whole.folder / f"{name}.json") for name in ("manifest", "result"))
    assert set(result["learners"]) == {"target"} and result["transfers"]["main"]["updates"] == 4
    assert manifest["weights"].keys() == {"source"} and manifest["cells"].keys() == {"target"}


def test_a_learner_starts_from_a_file(small: MakeExperiment, digits: Images, file: Path) -> None:
    graph = graph_of(small({"learners": {"source": {"weights": str(file)}}}), digits)
    fresh = graph_of(small(), digits)
    torch.manual_seed(0)
    expected = find_model("resnet18-narrow").build(10).state_dict()
    for name, value in graph.learners["source"].model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for name, value in graph.learners["target"].model.state_dict().items():
        assert torch.equal(value, fresh.learners["target"].model.state_dict()[name]), name


def test_a_file_of_other_classes_leaves_the_classifier_fresh(
    small: MakeExperiment, digits: Images, tmp_path: Path
) -> None:
    file = save_model(tmp_path / "hundred.safetensors", classes=100)
    starts = graph_of(small({"learners": {"source": {"weights": str(file)}}}), digits).learners["source"].model
    fresh = graph_of(small(), digits).learners["source"].model
    assert torch.equal(starts.fc.weight, fresh.fc.weight) and torch.equal(starts.fc.bias, fresh.fc.bias)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(starts.conv1.weight, fresh.conv1.weight)  # type: ignore[union-attr, arg-type]


# --- what counts -------------------------------------------------------------------------------------------------


def test_the_contents_of_a_file_count_and_not_where_it_lies(
    small: MakeExperiment, digits: Images, tmp_path: Path, file: Path
) -> None:
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(file.read_bytes())
    other = save_model(tmp_path / "other.safetensors", seed=1)
    for change in (frozen, lambda path: {"learners": {"source": {"weights": str(path)}}}):
        first, second, third = (plan_of(small(change(path)), digits) for path in (file, moved, other))
        assert first.hash == second.hash != third.hash
        assert first.cells == second.cells
        assert first.cells["target"] != third.cells["target"]


def test_a_fresh_learner_and_one_from_a_file_and_a_frozen_one_differ(
    small: MakeExperiment, digits: Images, file: Path
) -> None:
    changes = [{}, {"learners": {"source": {"weights": str(file)}}}, frozen(file)]
    assert len({plan_of(small(change), digits).cells["target"] for change in changes}) == 3


def test_a_frozen_source_that_nothing_reads_does_not_count(small: MakeExperiment, digits: Images, file: Path) -> None:
    off = {"transfers": {"main": {"enabled": False}}}
    assert (
        plan_of(small({**frozen(file), **off}), digits).cells["target"] == plan_of(small(off), digits).cells["target"]
    )


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"learners": {"source": {"frozen": True, "task": None}}},
            "learners.source.weights: a frozen learner is read from a file; name it, learners.source.weights=FILE",
        ),
        ({"learners": {"source": {"task": None}}}, "learners.source.task: is missing"),
        (
            frozen(Path("w.pt"), training={"batch_size": 4}),
            "learners.source.training: a frozen learner does not train; leave it out",
        ),
        (
            frozen(Path("w.pt"), copy=1),
            "learners.source.copy: a frozen learner does not train; leave it out",
        ),
        ({**frozen(Path("w.pt")), "clock": "source"}, "clock: 'source' is frozen; there is target"),
        (
            {**frozen(Path("w.pt")), "transfers": {"back": {"from": "target.classifier", "to": "source.classifier"}}},
            "transfers.back.to: 'source' is frozen; name a port of one that trains",
        ),
    ],
)
def test_what_does_not_fit_a_frozen_learner_is_refused(
    small: MakeExperiment, change: dict[str, Any], line: str
) -> None:
    assert refusal(lambda: small(change)) == line


def test_files_that_do_not_fit_are_refused_by_their_path_in_the_experiment(
    small: MakeExperiment, digits: Images, tmp_path: Path, file: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:1000])
    other = save_model(tmp_path / "large.safetensors", "resnet18")
    starts = {"learners": {"source": {"weights": str(other)}}}
    for change, line in [
        (frozen(tmp_path / "none.pt"), "learners.source.weights: weights .*none.pt: no such file"),
        (frozen(cut), "learners.source.weights: weights .*cut.safetensors: cannot be read"),
        (starts, r"learners.source.weights: weights .*large.safetensors: '.*' is \(.*\), the model's is \("),
        (
            {**frozen(file), "transfers": {"main": {"from": "source.layer9"}}},
            "transfers.main.from: resnet18-narrow: no port 'source.layer9'|no port 'layer9'; nearest is 'layer",
        ),
    ]:
        with pytest.raises(InputError, match=line):
            plan_of(small(change), digits)


def test_a_frozen_file_of_another_model_is_refused(small: MakeExperiment, digits: Images, file: Path) -> None:
    with pytest.raises(
        InputError, match=r"learners.source.weights: weights .*: 'conv1.weight' is \(16, 3, 3, 3\), the"
    ):
        plan_of(small(frozen(file, model="resnet50-cifar")), digits)


def test_whoever_starts_it_again_a_run_goes_on_with_the_file_it_began_with(
    small: MakeExperiment, tmp_path: Path, file: Path
) -> None:
    """Ray starts workers again without asking; a file that was replaced meanwhile is not taken."""
    spec = RunSpec(small({**frozen(file), "checkpoint": {"every": 1}}), 0, {}, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, StopAt(3))
    save_model(file, seed=1)
    line = "experiment, data, weights, code or numerics are not those it began with"
    assert refusal(lambda: execute(spec, Silent())) == f"{spec.folder}: {line}"


def test_the_frozen_recipe_asks_for_its_file_and_resolves_with_one(tmp_path: Path) -> None:
    asked = "learners.source.weights: a frozen learner is read from a file; name it, learners.source.weights=FILE"
    assert refusal(lambda: load_experiment("cifar100-frozen")) == asked
    file = save_model(tmp_path / "r50.safetensors", "resnet50-cifar", classes=100)
    experiment = load_experiment("cifar100-frozen", [f"learners.source.weights={file}"])
    assert experiment.learners["source"].frozen and list(experiment.trained()) == ["target"]


def test_a_run_keeps_nothing_of_its_frozen_source(small: MakeExperiment, tmp_path: Path, file: Path) -> None:
    execute(RunSpec(small(frozen(file)), 0, {}, tmp_path / "run"), Silent())
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert set(torch.load(newest / "state.pt", weights_only=True)["learners"]) == {"target"}
    line = "'source' is frozen, its weights are those of its file; name another --learner"
    assert line in refusal(lambda: read_trained(tmp_path / "run", "source", allow_code=False))

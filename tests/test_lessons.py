"""Losses with teachers at work: against loops written by hand, and each of them on real digits."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet import randomness
from mergenet.cli.show import taught_by
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.method.amalgamate import Amalgamation
from mergenet.method.distill import Distill, dkd
from mergenet.method.distill.uskd import Uskd
from mergenet.models import MODELS
from mergenet.training.card import _ways
from mergenet.training.evaluation import evaluate
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.teachers import FrozenTeacher, LiveTeacher
from tests.compare import assert_runs_equal
from tests.plain import Manner, Plain
from tests.ranks import on_ranks
from tests.smooth import BROAD, SMOOTH
from tests.teaching import add_networks, experiment, frozen, learner, save
from tests.test_distributed import build_graph
from tests.test_loop import graph_of, run, weights
from tests.test_resume import run as run_in

STEPS = 10
KD = {"from": "teacher", "to": "target", "loss": "kd"}
ADAM = {"optimizer": {"adamw": {"lr": 1e-2}}, "batch_size": 64}


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    monkeypatch.setitem(MODELS, "broad", BROAD)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "teacher.safetensors")


def distilled(learners: dict[str, Any], **rest: Any) -> Experiment:
    return experiment(learners, distill={"main": KD}, **rest)


# --- against loops written by hand -------------------------------------------------------------------------------


def soft(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """0.1 of the cross-entropy and 0.9 of the divergence at temperature 4, as mdistiller has them."""
    of_student, of_teacher = (functional.log_softmax(logits / 4, dim=1) for logits in (student, teacher.detach()))
    divergence = (of_teacher.exp() * (of_teacher - of_student)).sum(1).mean()
    return 0.1 * functional.cross_entropy(student, labels) + 0.9 * (16 * divergence)


class Teaching(Plain):
    """Keeps the logits of its own training pass."""

    def step(self, step: int) -> None:
        self.gave: list[Tensor] = []
        super().step(step)

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        self.gave.append(logits.detach().clone())
        return super().loss(logits, images, labels)


class Taught(Plain):
    """Learns by `soft` from what `teacher` makes of its images."""

    teacher: Callable[[Tensor], Tensor]

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return soft(logits, self.teacher(images), labels)


def taught_beside(digits: Images, teacher: Teaching, student: Taught) -> None:
    """Steps both, the teacher first."""
    for step in range(STEPS):
        teacher.step(step)
        logits = iter(torch.cat(teacher.gave).chunk(student.manner.parts))
        student.teacher = lambda _, logits=logits: next(logits)
        student.step(step)


def test_a_frozen_teacher_sees_the_students_batches(digits: Images, file: Path) -> None:
    student = Taught(digits, 1)
    torch.manual_seed(0)  # as the file was drawn
    network = SMOOTH.build(10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student.teacher = torch.no_grad()(network)
    for step in range(STEPS):
        student.step(step)
    graph = run(graph_of(distilled({"teacher": frozen(file), "target": learner(1)}), digits), STEPS)
    assert student.has_the_weights_of(graph.learners["target"].model)


@pytest.mark.parametrize("turned", [False, True], ids=["named first", "named last"])
def test_a_live_teacher_gives_what_it_gave_before_its_step(digits: Images, turned: bool) -> None:
    teacher, student = Teaching(digits, 0), Taught(digits, 1)
    taught_beside(digits, teacher, student)
    learners = {"teacher": learner(0), "target": learner(1)}
    learners = dict(reversed(learners.items())) if turned else learners
    graph = run(graph_of(distilled(learners), digits), STEPS)
    assert list(graph.learners) == list(learners)
    assert teacher.has_the_weights_of(graph.learners["teacher"].model)
    assert student.has_the_weights_of(graph.learners["target"].model)


def test_the_reversed_direction(digits: Images) -> None:
    """The clock, a student above, teaches."""
    teacher, student = Teaching(digits, 1), Taught(digits, 0)
    taught_beside(digits, teacher, student)
    back = {"main": {"from": "target", "to": "source", "loss": "kd"}}
    graph = run(graph_of(experiment({"source": learner(0), "target": learner(1)}, distill=back), digits), STEPS)
    assert teacher.has_the_weights_of(graph.learners["target"].model)
    assert student.has_the_weights_of(graph.learners["source"].model)


def test_parts_of_a_students_batch_meet_what_the_teacher_gave_of_the_same_samples(digits: Images) -> None:
    for parts in ((1, 2), (4, 2)):
        teacher, student = (
            one(digits, copy, Manner(parts=count))
            for copy, (one, count) in enumerate(zip((Teaching, Taught), parts, strict=True))
        )
        assert isinstance(teacher, Teaching) and isinstance(student, Taught)
        taught_beside(digits, teacher, student)
        learners = {
            "teacher": learner(0, accumulation=parts[0]),
            "target": learner(1, accumulation=parts[1]),
        }
        graph = run(graph_of(distilled(learners), digits), STEPS)
        assert teacher.has_the_weights_of(graph.learners["teacher"].model)
        assert student.has_the_weights_of(graph.learners["target"].model)


def test_parts_meet_the_teachers_features_of_the_same_samples(digits: Images) -> None:
    lesson = {"main": {**KD, "loss": {"mgd": {"dropped": 0.0}}}}
    whole, parts = (
        run(graph_of(experiment({"teacher": learner(0), "target": one}, distill=lesson), digits), 4)
        for one in (learner(1), learner(1, accumulation=4))
    )
    torch.testing.assert_close(weights(parts, "target"), weights(whole, "target"), rtol=1e-3, atol=1e-5)


def test_a_frozen_teacher_is_in_eval_mode_and_stays_as_its_file_is(digits: Images, tmp_path: Path) -> None:
    """Dropout and BatchNorm; and no random number is taken from anybody."""
    model = "mobilenet_v2-narrow"
    saved = save(tmp_path / "other.safetensors", model)
    state = torch.random.get_rng_state()
    taught = distilled({"teacher": frozen(saved, model), "target": learner(1)}, training={"batch_size": 32})
    graph = graph_of(taught, digits)
    student = graph.learners["target"]
    (teacher,) = student.teachers()
    assert isinstance(teacher, FrozenTeacher) and torch.equal(torch.random.get_rng_state(), state)
    run(graph, 2)
    torch.manual_seed(0)
    fresh = MODELS[model].build(10).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_equal_modules(fresh, teacher.model)
    (part,) = student.parts()
    assert torch.equal(part.taught[0].logits, fresh(part.batch.images))


def test_a_live_teacher_is_tried_without_a_trace(digits: Images) -> None:
    """As a run on several ranks does before its first step."""
    teacher = graph_of(experiment({"target": learner(0, "mobilenet_v2-narrow")}), digits).learners["target"]
    before = weights_of(teacher.model)
    outputs = LiveTeacher(teacher, None).rehearse(teacher.stream.batch(0).split(8)[0])
    assert outputs.logits.shape == (32, 10) and not outputs.logits.requires_grad
    assert torch.equal(weights_of(teacher.model), before) and all(one.training for one in teacher.model.modules())


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_a_teacher_of_teachers(digits: Images) -> None:
    first, second, third = Teaching(digits, 0), Taught(digits, 1), Taught(digits, 2)
    gave: list[Tensor] = []
    for step in range(STEPS):
        first.step(step)
        second.teacher = lambda _: first.gave[0]
        with torch.no_grad():
            gave = [second.model(images) for images, _ in second.parts(step)]
        second.step(step)
        third.teacher = lambda _, gave=gave: gave[0]
        third.step(step)
    chain = {"one": {"from": "b", "to": "target", "loss": "kd"}, "two": {"from": "a", "to": "b", "loss": "kd"}}
    learners = {"target": learner(2), "b": learner(1), "a": learner(0)}
    graph = run(graph_of(experiment(learners, distill=chain), digits), STEPS)
    for name, plain in (("a", first), ("b", second), ("target", third)):
        assert plain.has_the_weights_of(graph.learners[name].model)


class SelfTaught(Plain):
    """USKD with a weak head on the first convolution, trained by the same optimizer."""

    def __init__(self, data: Images, copy: int) -> None:
        super().__init__(data, copy)
        with randomness.seeded("loss", 0, "Uskd", "smooth", copy):
            self.layers = Uskd().build(8, 10)
        self.optimizer = torch.optim.SGD(
            [*self.model.parameters(), *self.layers.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4
        )
        self.model[1].register_forward_hook(lambda _, __, output: setattr(self, "features", output))

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(logits, self.features, labels)  # type: ignore[no-any-return]


def test_a_weak_head_is_trained_by_its_students_optimizer(digits: Images) -> None:
    student = SelfTaught(digits, 1)
    for step in range(STEPS):
        student.step(step)
    graph = run(
        graph_of(experiment({"target": learner(1)}, distill={"main": {"to": "target", "loss": "uskd"}}), digits), STEPS
    )
    found = graph.learners["target"]
    assert student.has_the_weights_of(found.model)
    assert_equal_modules(student.layers, found.module.layers)


def assert_equal_modules(one: nn.Module, other: nn.Module | None) -> None:
    assert other is not None
    mine, others = one.state_dict(), other.state_dict()
    assert mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def test_students_change_nothing_of_whom_they_learn_from(digits: Images) -> None:
    """Dropout and BatchNorm included; the teacher of two, of its logits and of its features."""
    teacher = learner(0, "mobilenet_v2-narrow", batch_size=32)
    alone = run(graph_of(experiment({"target": teacher}), digits), 4)
    lessons = {
        "logits": {"from": "target", "to": "one", "loss": "kd"},
        "features": {"from": "target", "to": "two", "loss": "rkd"},
    }
    learners = {"target": teacher, "one": learner(1, batch_size=32), "two": learner(2, batch_size=32)}
    beside = run(graph_of(experiment(learners, distill=lessons), digits), 4)
    assert torch.equal(weights(alone, "target"), weights(beside, "target"))
    plain = run(graph_of(experiment({**learners}), digits), 4)
    for name in ("one", "two"):
        assert not torch.equal(weights(beside, name), weights(plain, name))


def test_a_disabled_loss_leaves_the_task_its_own(digits: Images) -> None:
    learners = {"teacher": learner(0), "target": learner(1)}
    off = run(graph_of(experiment(learners, distill={"main": {**KD, "enabled": False}}), digits), 3)
    plain, on = (run(graph_of(one, digits), 3) for one in (experiment(learners), distilled(learners)))
    assert torch.equal(weights(off, "target"), weights(plain, "target"))
    assert not torch.equal(weights(on, "target"), weights(plain, "target"))


# --- each of them ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows the digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "broad", BROAD)
        graph = run(graph_of(experiment({"target": learner(5, "broad")}, training=ADAM), digits), 40)
        teacher = graph.learners["target"]
        assert evaluate(teacher, teacher.validation)["top1"] > 85
        path = tmp_path_factory.mktemp("teacher") / "trained.safetensors"
        return save(path, "broad", **teacher.model.state_dict())


def by(kind: str, file: Path, **options: Any) -> Experiment:
    """A student of each loss, with a teacher where it has one."""
    taught = options_of(Distill)[kind].taught
    learners = {"target": learner(1), **({"teacher": frozen(file, "broad")} if taught else {})}
    lesson = {**({"from": "teacher"} if taught else {}), "to": "target", "loss": {kind: options}}
    return experiment(learners, distill={"main": lesson}, training=ADAM)


def options_of(union: Any) -> dict[str, Any]:
    return dict(get_args(union)[1].options)


@pytest.mark.parametrize("kind", options_of(Distill))
def test_a_student_learns_by_each_loss(digits: Images, trained: Path, kind: str) -> None:
    graph = graph_of(by(kind, trained), digits)
    student, layers = graph.learners["target"], graph.learners["target"].module.layers
    before = [] if layers is None else [parameter.detach().clone() for parameter in layers.parameters()]
    losses = losses_of(graph, 40)
    assert all(map(math.isfinite, losses)) and sum(losses[-5:]) < sum(losses[:5])
    assert (layers is not None) == (kind in ("uskd", "mgd"))
    if layers is not None:
        moved = [not torch.equal(*pair) for pair in zip(before, layers.parameters(), strict=True)]
        assert moved and all(moved)
    assert evaluate(student, student.validation)["top1"] > 60  # of ten classes


def losses_of(graph: Graph, ticks: int, name: str = "target") -> list[float]:
    losses = []
    for _ in range(ticks):
        advance(graph)
        sums = graph.learners[name].sums.take()
        losses.append(sums["loss"] / sums["count"])
    return losses


def amalgamated(folder: Path, kind: str, **rest: Any) -> Experiment:
    """A student of ten classes, of which one teacher has four and the other six; neither has learned anything."""
    learners = {
        "one": frozen(save(folder / "one.safetensors", classes=4)),
        "two": frozen(save(folder / "two.safetensors", "broad", classes=6), "broad"),
        "target": learner(1, task={"labels": False}),
    }
    loss = {"cfl": {"cfl": {"width": 8}}}.get(kind, kind)
    lesson = {"from": ["one", "two"], "to": "target", "loss": loss}
    return experiment(learners, amalgamate={"main": lesson}, **rest)


@pytest.mark.parametrize("kind", options_of(Amalgamation))
def test_a_student_learns_by_each_loss_of_amalgamation(digits: Images, tmp_path: Path, kind: str) -> None:
    losses = losses_of(graph_of(amalgamated(tmp_path, kind, training=ADAM), digits), 20)
    assert all(map(math.isfinite, losses)) and sum(losses[-5:]) < sum(losses[:5])


def test_teachers_make_the_students_classes_in_their_order(digits: Images, tmp_path: Path) -> None:
    experiments = [amalgamated(tmp_path, "soft", training=ADAM)]
    plain = experiments[0].dump()
    plain["amalgamate"]["main"]["from"].reverse()
    experiments.append(type(experiments[0]).model_validate(plain))
    one, other = (graph_of(each, digits) for each in experiments)
    targets = [
        torch.cat([outputs.logits for outputs in next(graph.learners["target"].parts()).taught], dim=1)
        for graph in (one, other)
    ]
    assert torch.equal(targets[0], targets[1].roll(4, dims=1)) and not torch.equal(*targets)


def test_the_warm_up_goes_by_the_students_epochs(digits: Images, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    warm_up = dkd.warm_up

    def spy(epoch: float, epochs: float) -> float:
        factors.append(warm_up(epoch, epochs))
        return factors[-1]

    monkeypatch.setattr(dkd, "warm_up", spy)
    lesson = {"main": {**KD, "loss": "dkd"}}
    graph = graph_of(experiment({"teacher": frozen(file), "target": learner(1)}, distill=lesson), digits)
    factors.clear()  # of the plan
    run(graph, STEPS)
    assert factors == [1 / 20] * 5 + [2 / 20] * 5


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_with_a_live_teacher_its_student_ends_and_nobody_else(digits: Images) -> None:
    wild = learner(0, optimizer={"sgd": {"lr": 1e30}})
    lessons = {"main": KD, "second": {"from": "target", "to": "third", "loss": "kd"}}
    learners = {"third": learner(3), "teacher": wild, "target": learner(1), "other": learner(2)}
    graph = run(graph_of(experiment(learners, distill=lessons), digits), 5)
    ends = {name: one.diverged_at for name, one in graph.learners.items()}
    assert ends["teacher"] is not None and ends["other"] is None
    assert ends["teacher"] == ends["target"] == ends["third"]
    assert graph.learners["target"].done == ends["teacher"] and graph.learners["other"].done == 5
    assert weights(graph, "target").isfinite().all()


def test_a_student_that_ends_leaves_its_teacher_alone(digits: Images) -> None:
    learners = {"teacher": learner(0), "target": learner(1, optimizer={"sgd": {"lr": 1e30}})}
    graph = run(graph_of(distilled(learners), digits), 5)
    assert graph.learners["target"].diverged_at is not None
    assert graph.learners["teacher"].done == 5 and graph.learners["teacher"].diverged_at is None


@pytest.mark.parametrize(
    ("loss", "layer", "shape"),
    [("kd", "5.bias", (10,)), ("rkd", "2.bias", (8,)), ({"mgd": {"cross_entropy": 1.0}}, "2.bias", (8,))],
    ids=["logits", "pooled features", "maps"],
)
def test_a_frozen_teacher_that_gives_no_numbers_ends_its_student(
    digits: Images, tmp_path: Path, loss: Any, layer: str, shape: tuple[int, ...]
) -> None:
    """A loss of features passes by the classifier, whose gradient stays finite."""
    broken = save(tmp_path / "broken.safetensors", **{layer: torch.full(shape, math.nan)})
    learners = {"teacher": frozen(broken), "target": learner(1), "other": learner(2)}
    lesson = {"main": {**KD, "loss": loss}}
    graph = run(graph_of(experiment(learners, distill=lesson, training={"batch_size": 64}), digits), 2)
    assert graph.learners["target"].diverged_at == 0 and graph.learners["target"].done == 0
    assert weights(graph, "target").isfinite().all()
    assert graph.learners["other"].done == 2


def test_layers_that_train_along_and_break_end_their_student(digits: Images, tmp_path: Path) -> None:
    """The decoders of the teachers' features are out of the student's own gradient's reach."""
    graph = graph_of(amalgamated(tmp_path, "layerwise", training=ADAM), digits)
    student = graph.learners["target"]
    layers = student.module.layers
    assert layers is not None
    with torch.no_grad():
        list(layers.parameters())[-1].fill_(math.inf)
    before = weights(graph, "target").clone()
    run(graph, 2)
    assert student.diverged_at == 0 and torch.equal(weights(graph, "target"), before)


def test_of_a_batch_that_is_measured_nothing_is_left_for_the_next_step(digits: Images) -> None:
    lesson = {"main": {**KD, "loss": "mgd"}}
    learners = {"teacher": learner(0), "target": learner(1)}
    straight, measured = (graph_of(experiment(learners, distill=lesson), digits) for _ in range(2))
    run(measured, 2)
    for name in learners:
        evaluate(measured.learners[name], measured.learners[name].validation)
    run(straight, 4), run(measured, 2)
    for name in learners:
        assert torch.equal(weights(straight, name), weights(measured, name))


# --- resume ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["kd live", "mgd", "dkd", "uskd", "cfl", "layerwise"])
def test_stopped_and_gone_on_with_it_ends_as_if_it_never_was(tmp_path: Path, case: str) -> None:
    """With layers that train along, masks that are drawn, and a warm-up by the epoch."""
    common = {"checkpoint": {"every": 1}}
    live = {"teacher": learner(0), "target": learner(1)}
    fixed = {"teacher": frozen(save(tmp_path / "teacher.safetensors", "broad"), "broad"), "target": learner(1)}
    if case in ("cfl", "layerwise"):
        taught = amalgamated(tmp_path, case, **common, training={"optimizer": {"adamw": {"lr": 1e-3}}})
    else:
        lesson = {"to": "target", "loss": "uskd"} if case == "uskd" else {**KD, "loss": case.partition(" ")[0]}
        taught = experiment(live if case == "kd live" else fixed, distill={"main": lesson}, **common)
    whole = run_in(taught, tmp_path / "whole")
    stopped = run_in(taught, tmp_path / "stopped", stops=(3, 5, 8))
    assert_runs_equal(whole, stopped)


# --- two ranks ---------------------------------------------------------------------------------------------------


def train_on_rank(taught: dict[str, Experiment]) -> dict[str, dict[str, Tensor]]:
    add_networks()
    found = {}
    for name, one in taught.items():
        graph = run(build_graph(one), 6)
        assert all(each.diverged_at is None for each in graph.learners.values())
        found[name] = {key: value.detach().clone() for key, value in graph.replicated().items()}
    return found


def test_two_ranks_end_where_one_does(tmp_path: Path) -> None:
    """Masks are drawn for each rank by itself, so those of MGD are left out; some losses look at its whole batch."""
    teacher = frozen(save(tmp_path / "teacher.safetensors", "broad"), "broad")
    live = {"teacher": learner(0), "target": learner(1)}
    fixed = {"teacher": teacher, "target": learner(1)}
    mgd = {"main": {**KD, "loss": {"mgd": {"dropped": 0.0}}}}
    taught = {
        "frozen": distilled(fixed),
        "live": distilled(live),
        "parts": distilled({"teacher": learner(0), "target": learner(1, accumulation=2)}),
        "mgd": experiment(fixed, distill=mgd),
        "mgd live": experiment(live, distill=mgd),
    }
    taught["shared"] = experiment(
        {"large": learner(0, "broad"), "target": learner(1)}, share={"main": {"from": "large.2", "to": "target.2"}}
    )
    sharing = experiment(
        {"large": learner(0, "broad"), "target": learner(1)},
        share={"main": {"from": "large.2", "to": "target.2", "order": "epoch"}},
    )
    by_batch = {
        "rkd": experiment(fixed, distill={"main": {**KD, "loss": "rkd"}}),
        "uskd": experiment({"target": learner(1)}, distill={"main": {"to": "target", "loss": "uskd"}}),
        "cfl": amalgamated(tmp_path, "cfl", training={"optimizer": {"adamw": {"lr": 1e-3}}}),
    }
    taught |= {"shared by norm": sharing, **by_batch}
    alone = train_on_rank(taught)
    one, other = on_ranks(2, train_on_rank, tmp_path / "ranks", taught)
    assert any("loss: " in name for name in alone["mgd"])
    for case, values in alone.items():
        for name, value in values.items():
            assert torch.equal(one[case][name], other[case][name]), f"{case}: {name}"
            if case in by_batch:
                continue
            torch.testing.assert_close(one[case][name], value, rtol=1e-3, atol=1e-5, msg=f"{case}: {name}")


def test_what_taught_a_learner_is_told_in_a_line(file: Path) -> None:
    learners = {"teacher": frozen(file), "large": learner(0, "broad"), "target": learner(1)}
    share = {"main": {"from": "large.2", "to": "target.2"}}
    one = experiment(learners, distill={"main": KD}, share=share)
    assert taught_by(one, "target", {}) == "kd from teacher\n2: a slice of large.2"
    assert taught_by(one, "large", {}) == "2: shared with target.2"
    assert list(_ways(one, "target")) == [
        "It learned from a `smooth` by the loss `kd`; no teacher is needed any more.",
        "The weight of its `2` was trained as a slice of a `broad`'s.",
    ]
    assert list(_ways(one, "large")) == ["A slice of the weight of its `2` was trained by a `smooth`, too."]
    off = experiment(learners, distill={"main": {**KD, "enabled": False}})
    assert (
        taught_by(off, "target", {}) == "off" and taught_by(off, "large", {}) == "-" and not list(_ways(off, "target"))
    )

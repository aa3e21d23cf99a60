"""What must hold between learners, losses and shared weights: refused in a line, before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergenet.config import merge
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.identity import Contents, cell_keys
from mergenet.models import MODELS
from mergenet.training.plan import make_plan
from mergenet.wiring import steps_in_order
from tests.refused import refusal
from tests.smooth import BROAD, SMOOTH
from tests.teaching import experiment, frozen, learner, save

Call = Callable[..., tuple[int, str, str]]
KD = {"from": "teacher", "to": "target", "loss": "kd"}
FILE = Path("w.safetensors")


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    monkeypatch.setitem(MODELS, "broad", BROAD)


def taught(change: dict[str, Any]) -> Experiment:
    """A target with a live teacher and two frozen ones beside it, changed."""
    base = {
        "learners": {
            "target": learner(1),
            "teacher": learner(0),
            "one": frozen(FILE),
            "two": frozen(FILE, "broad"),
        },
        "training": {},
    }
    return experiment(**merge(Experiment, base, change))


def distill(**lesson: Any) -> dict[str, Any]:
    return {"distill": {"main": {**KD, **lesson}}}


def amalgamate(*teachers: str, labels: bool = False, **lesson: Any) -> dict[str, Any]:
    task = {"classification": {"labels": labels}}
    main = {"from": list(teachers), "to": "target", **lesson}
    return {"amalgamate": {"main": main}, "learners": {"target": {"task": task}}}


def share(large: str = "teacher.2", small: str = "target.2", **more: Any) -> dict[str, Any]:
    return {"share": {"main": {"from": large, "to": small, **more}}}


def of(name: str, **options: Any) -> dict[str, Any]:
    return {"learners": {name: options}}


def training(name: str, **options: Any) -> dict[str, Any]:
    return of(name, training=options)


def task(name: str, **options: Any) -> dict[str, Any]:
    return of(name, task={"classification": options})


def both(*changes: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for change in changes:
        for key, value in change.items():
            whole[key] = merge(Experiment, {key: whole.get(key, {})}, {key: value})[key]
    return whole


CIRCLE = {"back": {"from": "target", "to": "teacher", "loss": "kd"}}
OTHER = "'teacher' trains on other batches than 'target', "
REFUSED: list[tuple[dict[str, Any], str]] = [
    # who teaches whom
    (both(distill(), {"distill": CIRCLE}), "distill: 'target', 'teacher' teach each other in a circle; freeze one"),
    (
        both(
            of("third", **learner(2)),
            of("pupil", **learner(3)),
            distill(),
            {
                "distill": {
                    "back": {"from": "target", "to": "third", "loss": "kd"},
                    "on": {"from": "third", "to": "teacher", "loss": "kd"},
                    "out": {"from": "target", "to": "pupil", "loss": "kd"},
                }
            },
        ),
        "distill: 'target', 'teacher', 'third' teach each other in a circle; freeze one of them",
    ),
    (distill(**{"from": "target"}), "distill.main.from: 'target' is the student itself; a copy of it is a learner of"),
    (distill(**{"from": "techer"}), "distill.main.from: no learner 'techer'; nearest is 'teacher'"),
    (distill(to="tagret"), "distill.main.to: no learner 'tagret'; nearest is 'target'"),
    (distill(to="one"), "distill.main.to: 'one' is frozen; name one that trains"),
    (distill(**{"from": None}), "distill.main.from: is missing; name the learner that teaches"),
    (distill(loss="uskd"), "distill.main.from: this loss has no teacher; leave 'teacher' out"),
    (distill(loss="tf_kd_reg"), "distill.main.from: this loss has no teacher; leave 'teacher' out"),
    (distill(loss="kdd"), "distill.main.loss"),
    (
        both(distill(), {"distill": {"two": {**KD, "from": "one"}}}),
        "distill.two.to: 'target' learns by distill.main already; disable one of them",
    ),
    (
        both(distill(), amalgamate("one", "two", labels=True)),
        "amalgamate.main.to: 'target' learns by distill.main already; disable one of them",
    ),
    # equal batches
    (
        both(distill(), training("teacher", batch_size=128)),
        f"distill.main.from: {OTHER}training.batch_size 128 and not",
    ),
    (both(distill(), training("teacher", every=2)), f"distill.main.from: {OTHER}training.every 2 and not 1; make them"),
    (both(distill(), task("target", samples=500)), f"distill.main.from: {OTHER}samples all and not 500; make them eq"),
    (both(distill(), task("teacher", size=4)), f"distill.main.from: {OTHER}size 4 and not all; make them equal, or"),
    (both(distill(), task("teacher", data="cifar100")), f"distill.main.from: {OTHER}data cifar100 and not digits; "),
    (both(distill(), task("teacher", augmentation={"flip": True})), f"distill.main.from: {OTHER}augmentation "),
    # layers
    (distill(to="target.last"), "distill.main.to: this loss compares no features of a layer; leave '.last' out"),
    (distill(**{"from": "teacher.last"}), "distill.main.from: this loss compares no features of a layer; leave '.las"),
    (
        distill(loss={"rkd": {"on": "logits"}}, to="target.last"),
        "distill.main.to: this loss compares no features of a layer; leave '.last' out",
    ),
    (
        amalgamate("one.last", "two", loss="soft"),
        "amalgamate.main.from: this loss compares no features of a layer; leave '.last' out",
    ),
    # labels
    (
        task("target", labels=False),
        "learners.target.task.classification.labels: false, and its task's own loss reads them; only amalgamation",
    ),
    (
        both(distill(), task("target", labels=False)),
        "learners.target.task.classification.labels: false, and distill.main reads them; only amalgamation does with",
    ),
    (
        amalgamate("one", "two", labels=True),
        "learners.target.task.classification.labels: amalgamate.main trains 'target' on images alone; set it to fal",
    ),
    (
        amalgamate("one", "two", enabled=False),
        "learners.target.task.classification.labels: false, and its task's own loss reads them; only amalgamation",
    ),
    # several teachers
    (amalgamate("one", "teacher"), "amalgamate.main.from: 'teacher' trains, and each teacher knows other classes; "),
    (amalgamate("one"), "amalgamate.main.from"),
    (amalgamate("one", "one"), "amalgamate.main.from: each teacher once, got one, one"),
    (amalgamate("one.last", "one.0"), "amalgamate.main.from: each teacher once, got one, one"),
    (amalgamate("one", "target"), "amalgamate.main.from: 'target' is the student itself; a copy of it is a learner"),
    # shared weights
    (share("teacher"), "share.main.from: write it as learner.port, got 'teacher'"),
    (share(small="targt.2"), "share.main.to: no learner 'targt'; nearest is 'target'"),
    (share("one.2"), "share.main.from: 'one' is frozen; a shared weight is trained by both"),
    (share(small="one.2"), "share.main.to: 'one' is frozen; a shared weight is trained by both"),
    (share(small="teacher.0"), "share.main.to: 'teacher' is the learner it is shared with; name another"),
    (
        both(share(), training("teacher", every=2)),
        "learners.target.training.every: 'teacher' and 'target' step together; give both the same",
    ),
    (
        both(share(), training("teacher", accumulation=2)),
        "learners.target.training.accumulation: 'teacher' and 'target' step together; give both the same",
    ),
    (
        both(share(), training("target", compile=True)),
        "learners.target.training.compile: share.main puts another weight in place each step; leave it out",
    ),
    (
        both(share(), training("teacher", compile=True)),
        "learners.teacher.training.compile: share.main puts another weight in place each step; leave it out",
    ),
    (both(share(), distill()), "distill.main.from: it shares a weight with 'target', and so steps with it and not"),
    # frozen
    (of("one", weights=None), "learners.one.weights: a frozen learner is read from a file; name it, learners.one.we"),
]


@pytest.mark.parametrize(("change", "start"), REFUSED, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_what_does_not_hold_is_refused_by_its_path(change: dict[str, Any], start: str) -> None:
    assert refusal(lambda: taught(change)).startswith(start)


ALLOWED = [
    {},
    distill(),
    distill(**{"from": "one"}),
    both(distill(**{"from": "one"}), training("target", batch_size=128)),
    both(distill(enabled=False), {"distill": CIRCLE}),
    both(distill(enabled=False), training("teacher", batch_size=128)),
    both(distill(), {"distill": {"two": {**KD, "from": "one", "enabled": False}}}),
    both(distill(), training("target", accumulation=2, precision="bf16")),
    amalgamate("one", "two"),
    amalgamate("one", "two", enabled=False, labels=True),
    both(share(enabled=False), training("teacher", every=2)),
    share(),
]


@pytest.mark.parametrize("change", ALLOWED)
def test_what_holds_is_taken(change: dict[str, Any]) -> None:
    assert list(taught(change).trained()) == ["target", "teacher"]


def test_teachers_step_before_students_and_who_shares_together() -> None:
    learners = {name: learner(copy) for copy, name in enumerate(("target", "a", "b", "c", "d"))}
    lessons = {"one": {**KD, "from": "b", "to": "a"}, "two": {**KD, "from": "target", "to": "b"}}
    shares = {"one": {"from": "d.2", "to": "a.2"}}
    assert steps_in_order(experiment(learners)) == [(name,) for name in learners]
    assert steps_in_order(experiment(learners, distill=lessons)) == [("target",), ("c",), ("d",), ("b",), ("a",)]
    together = experiment(learners, distill=lessons, share=shares)
    assert steps_in_order(together) == [("target",), ("c",), ("b",), ("a", "d")]


# --- what only a plan finds --------------------------------------------------------------------------------------

NARROW = "resnet18-narrow"
GATE = {"from": "target.classifier", "to": "teacher.2", "encoding": "whole"}
UNFIT: list[tuple[dict[str, Any], str]] = [
    (
        distill(**{"from": "one"}),
        "distill.main.loss: logits are (256, 10) and (256, 4); student and teacher must agree",
    ),
    (distill(loss="rkd", to="target.lst"), "distill.main.to: smooth: no layer 'lst'; nearest is 'last'"),
    (distill(loss="rkd", **{"from": "teacher.lst"}), "distill.main.from: smooth: no layer 'lst'; nearest is 'last'"),
    (distill(loss="rkd", **{"from": "teacher.lst", "enabled": False}), "distill.main.from: smooth: no layer 'lst'; ne"),
    (
        both(distill(loss="mgd"), of("teacher", model="resnet18-narrow")),
        "distill.main.loss: features are (256, 8, 8, 8) and (256, 128, 2, 2); height and width must be equal",
    ),
    (
        both(
            distill(loss="uskd", **{"from": None, "to": "target.layer1.0.bn2"}), of("target", model="resnet18-narrow")
        ),
        "distill.main.to: resnet18-narrow: layer 'layer1.0.bn2': what follows it overwrites its output; name the lay",
    ),
    (
        both(distill(**{"from": "two"}), of("two", model="alexnet")),
        "learners.two.weights: weights ",
    ),
    (distill(loss="mgd", to="target.pooled"), "distill.main.loss: features are (256, 512) and (256, 8, 8, 8); they m"),
    (amalgamate("one", "two", loss="soft"), "amalgamate.main.loss: logits are (256, 10) and (256, 14); student and"),
    (share("teacher.2", "target.0"), "share.main.to: shape (8, 3, 3, 3) has another kernel than (8, 8, 1, 1); they"),
    (
        both(share(), of("target", model="broad")),
        "share.main.to: shape (16, 16, 1, 1) is no slice of (8, 8, 1, 1); outputs and inputs may not be more",
    ),
    (share("teacher.7"), "share.main.from: smooth: no port '7'; there is 0, 2, 5, classifier"),
    (share(small="target.2.bias"), "share.main.to: smooth: port '2.bias' is a vector of 8"),
    (
        both(share(enabled=False), share("teacher.2", "target.0", enabled=False)),
        "share.main.to: shape (8, 3, 3, 3) has another kernel than",
    ),
    (
        both(share(), of("third", **learner(2)), {"share": {"two": {"from": "third.2", "to": "target.2.weight"}}}),
        "share.two.to: target.2.weight is shared by 'main' already",
    ),
    (
        both(share(), of("third", **learner(2)), {"share": {"two": {"from": "target.2", "to": "third.2"}}}),
        "share.two.from: target.2 is itself a slice, by 'main'; name that one's",
    ),
    (
        both(share(small="target.classifier", large="teacher.5"), {"transfers": {"gate": GATE}}),
        "transfers.gate.from: target.classifier is a slice of teacher.5 (share.main); name that",
    ),
    (
        both(share(), {"transfers": {"gate": {**GATE, "from": "teacher.classifier", "to": "target.2"}}}),
        "transfers.gate.to: target.2 is a slice of teacher.2 (share.main); name that",
    ),
    (
        both(share(), of("target", factored={"2": {"rank": 2}})),
        "share.main.to: smooth: port '2' is trained as two factors",
    ),
    (
        both(
            of("target", factored={"2": {"rank": 2}}),
            of("teacher", factored={"5": {"rank": 2}}),
            share("teacher.5.parametrizations.weight.original1", "target.2.parametrizations.weight.original1"),
        ),
        "share.main.to: target.2.parametrizations.weight.original1 is not the weight of a layer",
    ),
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """The frozen teachers' files: four classes and ten."""
    one, two = save(tmp_path / "one.safetensors", classes=4), save(tmp_path / "two.safetensors", "broad")
    return {"learners": {"one": {"weights": str(one)}, "two": {"weights": str(two)}}}


@pytest.mark.parametrize(("change", "start"), UNFIT, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_what_does_not_fit_is_refused_before_it_starts(
    digits: Images, files: dict[str, Any], change: dict[str, Any], start: str
) -> None:
    unfit = taught(both(files, change))
    assert refusal(lambda: make_plan(unfit, 0, {"digits": digits}, 1)).startswith(start)


def test_features_of_another_size_fit_when_they_are_resized(digits: Images, files: dict[str, Any]) -> None:
    resized = both(files, distill(loss={"mgd": {"resize": "bilinear"}}), of("teacher", model="resnet18-narrow"))
    plan = make_plan(taught(resized), 0, {"digits": digits}, 2)
    lesson = plan.lessons["distill.main"]
    assert lesson.student.maps.shape == (128, 8, 8, 8) and lesson.teachers[0].maps.shape == (128, 128, 2, 2)
    assert lesson.parameters == plan.parameters_of("distill.main") == 8 * 128 + 128 + 2 * (128 * 128 * 9 + 128)


def test_of_a_frozen_teacher_all_is_held(digits: Images, files: dict[str, Any]) -> None:
    plan = make_plan(taught(both(files, distill(**{"from": "two"}))), 0, {"digits": digits}, 1)
    assert plan.learners["two"].parameters == sum(p.numel() for p in BROAD.build(10).parameters())
    assert plan.learners["one"].parameters == 0


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["distill.main={from: source, to: source, loss: kd}"], "distill.main.from: 'source' is the student itself"),
        (["distill.main={from: source, to: target.lst, loss: mgd}"], "distill.main.to: mobilenet_v2-narrow: no layer"),
        (["share.main={from: source.fc, to: target.irb16}"], "share.main.to: shape (56, 336, 1, 1) is no slice of"),
        (["distill.mian.loss=kd"], "override 'distill.mian.loss=kd': no distill 'mian'; "),
    ],
)
def test_a_refused_run_writes_nothing(overrides: list[str], line: str, call: Call, tmp_path: Path) -> None:
    code, out, err = call("train", "digits-cross-structure", *overrides, "--device", "cpu")
    assert code == 2 and out == ""
    (said,) = err.strip().splitlines()
    assert line in said and list(tmp_path.iterdir()) == []


# --- names -------------------------------------------------------------------------------------------------------

STEPS = dict.fromkeys(("target", "teacher", "one", "two", "third", "a", "b"), 10)
CONTENTS = Contents({"digits": "d"}, weights={"one": "file", "two": "other file"})


def keys(one: Experiment, contents: Contents = CONTENTS) -> dict[str, str]:
    return cell_keys(one, 0, STEPS, contents, 10)


RKD = distill(loss="rkd")
TWINS = of("two", model="smooth")  # of one model, so that the files alone tell the teachers apart
# before, after, whose key changes
CHANGES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    ({}, distill(), {"target"}),
    (distill(), distill(loss="nkd"), {"target"}),
    (distill(), distill(loss={"kd": {"temperature": 2.0}}), {"target"}),
    (distill(), distill(loss={"kd": {"temperature": 4.0}}), set()),
    (distill(), distill(**{"from": "one"}), {"target"}),
    (distill(**{"from": "one"}), distill(**{"from": "two"}), {"target"}),
    (distill(), both(distill(), training("teacher", optimizer={"sgd": {"lr": 0.1}})), {"target", "teacher"}),
    (distill(), both(distill(), training("target", optimizer={"sgd": {"lr": 0.1}})), {"target"}),
    ({}, distill(enabled=False), set()),
    ({}, amalgamate("one", "two", enabled=False, labels=True), set()),
    ({}, share(enabled=False), set()),
    ({}, distill(loss="uskd", **{"from": None}), {"target"}),
    (RKD, distill(loss="rkd", to="target.pooled", **{"from": "teacher.pooled"}), set()),
    (RKD, distill(loss="rkd", to="target.last"), {"target"}),
    (RKD, distill(loss="rkd", **{"from": "teacher.last"}), {"target"}),
    (distill(loss="rkd", to="target.last"), distill(loss="rkd", to="target.3"), set()),
    (distill(loss="mgd"), distill(loss="mgd", to="target.3", **{"from": "teacher.last"}), set()),
    (amalgamate("one", "two"), amalgamate("two", "one"), {"target"}),
    (both(TWINS, amalgamate("one", "two")), both(TWINS, amalgamate("two", "one")), {"target"}),
    (amalgamate("one", "two"), amalgamate("one", "two", loss="soft"), {"target"}),
    ({}, share(), {"target", "teacher"}),
    (share(), share(order="epoch"), {"target", "teacher"}),
    (share(), share(large="teacher.0", small="target.0"), {"target", "teacher"}),
    (share("teacher.5"), share("teacher.classifier"), set()),
    (share(), share(small="target.2.weight"), set()),
    (share(), share("target.2", "teacher.2"), {"target", "teacher"}),
    (share(), both(share(), training("target", optimizer={"sgd": {"lr": 0.1}})), {"target", "teacher"}),
]


@pytest.mark.parametrize(("before", "after", "changed"), CHANGES)
def test_a_change_shows_in_the_keys_of_those_it_can_reach(
    before: dict[str, Any], after: dict[str, Any], changed: set[str]
) -> None:
    one, other = keys(taught(before)), keys(taught(after))
    assert {name for name in other if one[name] != other[name]} == changed


def test_names_of_learners_and_edges_do_not_count() -> None:
    lesson, weight = {**KD, "loss": "mgd"}, {"from": "teacher.2", "to": "third.2"}
    learners = {"target": learner(1), "teacher": learner(0), "third": learner(2)}
    plain = keys(experiment(learners, distill={"main": lesson}, share={"main": weight}))
    renamed = keys(
        experiment(
            {"b": learner(2), "a": learner(0), "target": learner(1)},
            distill={"other": {**lesson, "from": "a"}},
            share={"another": {"from": "a.2", "to": "b.2"}},
        )
    )
    assert [plain[name] for name in ("target", "teacher", "third")] == [renamed[name] for name in ("target", "a", "b")]


def test_a_teacher_has_the_key_it_has_alone() -> None:
    alone = keys(experiment({"teacher": learner(0), "target": learner(1)}))
    assert keys(taught(distill()))["teacher"] == alone["teacher"]


def test_the_model_and_the_file_of_a_frozen_teacher_count() -> None:
    """A file does not say which model looks through it: the strides of these two differ, and no weight."""
    found = [
        keys(taught(both(distill(**{"from": "one"}), of("one", model=model))), contents)
        for model, contents in [
            ("resnet18-narrow", CONTENTS),
            ("resnet18-narrow16", CONTENTS),
            ("resnet18-narrow", Contents({"digits": "d"}, weights={"one": "another", "two": "other file"})),
            ("resnet18-narrow", Contents({"digits": "d"}, weights=CONTENTS.weights, code={"one": "code"})),
        ]
    ]
    assert len({one["target"] for one in found}) == 4 and len({one["teacher"] for one in found}) == 1


def test_one_and_another_teacher_who_starts_from_a_file(tmp_path: Path) -> None:
    """Frozen, live, and live from where the frozen one stays."""
    starts = of("teacher", weights="w.safetensors")
    contents = Contents({"digits": "d"}, weights={"one": "file", "two": "other file", "teacher": "file"})
    found = [
        keys(taught(distill())),
        keys(taught(distill(**{"from": "one"}))),
        keys(taught(both(distill(), starts)), contents),
    ]
    assert len({one["target"] for one in found}) == 3


def specialists(tmp_path: Path, *ranges: tuple[int, int], **task: Any) -> Experiment:
    """A student of frozen teachers, each of whom says which classes it knows."""
    learners = {"target": learner(1, task={"labels": False, **task})}
    for number, (low, high) in enumerate(ranges):
        file = save(tmp_path / f"{number}.safetensors", classes=high - low)
        said = {"task": {"classification": {"data": "digits", "classes": [low, high]}}}
        learners[f"knows{number}"] = {**frozen(file), **said}
    lesson = {"from": [name for name in learners if name != "target"], "to": "target", "loss": "soft"}
    return experiment(learners, amalgamate={"main": lesson})


def test_teachers_classes_follow_each_other_as_the_students_do(digits: Images, tmp_path: Path) -> None:
    def planned(*ranges: tuple[int, int], **task: Any) -> Any:
        return make_plan(specialists(tmp_path, *ranges, **task), 0, {"digits": digits}, 1)

    planned((0, 4), (4, 10))
    planned((2, 4), (4, 6), (6, 8), classes=[2, 8])
    for ranges in [((4, 10), (0, 4)), ((0, 5), (0, 5)), ((0, 5), (4, 9)), ((0, 4), (5, 10))]:
        line = refusal(lambda ranges=ranges: planned(*ranges))
        assert line.startswith("amalgamate.main.from: the teachers know the classes")
    assert "know the classes" in refusal(lambda: planned((0, 4), (4, 6), classes=[2, 8]))


def test_a_teachers_task_and_its_weights_know_as_many_classes(digits: Images, tmp_path: Path) -> None:
    plain = specialists(tmp_path, (0, 4), (4, 10)).dump()
    save(tmp_path / "0.safetensors", classes=3)
    one = Experiment.model_validate(plain)
    start = "learners.knows0.task.classification.classes: 0 to 4 are 4 classes, and its weights tell 3 apart"
    assert refusal(lambda: make_plan(one, 0, {"digits": digits}, 1)) == start

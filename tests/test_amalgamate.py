"""Losses of amalgamation: their terms by hand, their properties, layers that train, what an experiment asks of them.

That the whole agrees with the official formulas, is finite, one-sided and strict, `tests.test_distill` shows.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mergenet.config import InputError, parse
from mergenet.method import amalgamate, layerwise
from mergenet.method.amalgamate import (
    VARIANTS,
    Cfl,
    Layerwise,
    LayerwiseLoss,
    Soft,
    alignment,
    mmd,
    reconstruction,
    soft_targets,
)
from mergenet.method.common_features import CommonFeatures
from mergenet.method.criterion import Criterion, Given, Outputs
from mergenet.method.layerwise import LayerwiseBlock
from tests.test_distill import Union
from tests.test_distill_invariances import ANY, close, normal, seeds

exp, log = math.exp, math.log


# --- by hand -----------------------------------------------------------------------------------------------------


def test_soft_targets_by_hand() -> None:
    """Teachers of two classes and of one, at temperature 2; batches of one and of two."""
    student = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    teachers = [torch.tensor([[1.0, 1.0], [3.0, 0.0]]).double(), torch.tensor([[-2.0], [1.0]]).double()]
    s1 = [exp(x / 2) / (exp(1) + exp(0) + exp(-0.5)) for x in (2, 0, -1)]
    s2 = [exp(x / 2) / (exp(0) + exp(0.5) + exp(0)) for x in (0, 1, 0)]
    t1 = [exp(x / 2) / (exp(0.5) + exp(0.5) + exp(-1)) for x in (1, 1, -2)]
    t2 = [exp(x / 2) / (exp(1.5) + exp(0) + exp(0.5)) for x in (3, 0, 1)]
    one = -sum(t * log(s) for t, s in zip(t1, s1, strict=True))
    two = -sum(t * log(s) for t, s in zip(t2, s2, strict=True))
    assert soft_targets(student, teachers, 2.0).item() == pytest.approx(4 * (one + two) / 2, rel=1e-12)
    alone = soft_targets(student[:1], [teacher[:1] for teacher in teachers], 2.0)
    assert alone.item() == pytest.approx(4 * one, rel=1e-12)
    entropy = -sum(t * log(t) for t in t1) - sum(t * log(t) for t in t2)
    divergence = soft_targets(student, teachers, 2.0, "divergence").item()
    assert divergence == pytest.approx(4 * (one + two - entropy) / 2, rel=1e-12)


def test_discrepancy_by_hand() -> None:
    """Directions at right angles are the square root of two apart; their lengths do not count."""
    one, other = torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    near = sum(exp(-1e-12 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))  # at the least distance
    far = sum(exp(-2 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))
    assert mmd(one, other).item() == pytest.approx(2 * near - 2 * far, rel=1e-12)

    # two samples: (east, north) and (east, west); east and west are two apart
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    other = torch.tensor([[5.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    opposite = sum(exp(-4 / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))
    within = (2 * near + 2 * far) / 4 + (2 * near + 2 * opposite) / 4
    between = (near + opposite + far + far) / 4
    assert mmd(one, other).item() == pytest.approx(within - 2 * between, rel=1e-12)
    assert alignment(one, [other, one, other]).item() == pytest.approx(2 * (within - 2 * between), rel=1e-12)
    # with one kernel of width 1
    of_one = (2 + 2 * exp(-1)) / 4 + (2 + 2 * exp(-2)) / 4 - 2 * (1 + exp(-2) + 2 * exp(-1)) / 4
    assert mmd(one, other, [1.0]).item() == pytest.approx(of_one, rel=1e-9)


def test_reconstruction_by_hand() -> None:
    decoded = [torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0], [0.0]])]
    teachers = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0], [0.0]])]
    assert reconstruction(decoded, teachers).item() == pytest.approx((4 + 9 + 25) / 4 + 9 / 2)


def test_each_part_has_its_weight() -> None:
    options = Cfl(soft_targets=2.0, alignment=3.0, reconstruction=5.0, temperature=2.0, features="vectors", width=3)
    loss = options.build(4, [5, 6]).double()
    logits, features = normal((3, 4), 0), normal((3, 4), 1)
    teachers, taught = [normal((3, 1), 2), normal((3, 3), 3)], [normal((3, 5), 4), normal((3, 6), 5)]
    common = loss.common(features, taught)
    parts = [
        2 * soft_targets(logits, teachers, 2.0),
        3 * alignment(common.student, common.teachers),
        5 * reconstruction(common.decoded, taught),
    ]
    close(loss(logits, teachers, features, taught), torch.stack(parts).sum())


def test_discrepancy_trains_the_extractor_from_both_sides() -> None:
    student, teacher = normal((3, 4), 0).requires_grad_(), normal((3, 4), 1).requires_grad_()
    alignment(student, [teacher]).backward()
    assert all(side.grad is not None and side.grad.abs().sum() > 0 for side in (student, teacher))


def doubles(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def worked_out(options: Layerwise) -> LayerwiseLoss:
    """A student of one channel, teachers of one and of two: encoded t - a + 2b + 0.5, adapted 2s - 1."""
    loss = options.build(1, [1, 2]).double()
    block = loss.block
    for layer, weight, bias in (
        (block.encoder, [[1.0, -1.0, 2.0]], [0.5]),
        (block.adapter, [[2.0]], [-1.0]),
        (block.decoder, [[1.0], [0.0], [-1.0]], [0.0, 1.0, 0.5]),
    ):
        layer.load_state_dict({"weight": doubles(*weight)[:, :, None, None], "bias": doubles(*bias)})
    return loss


# two samples of maps 1 x 2
FEATURES = doubles([[[2, 0]]], [[[0, 1]]])
TAUGHT = [doubles([[[1, 0]]], [[[2, 0]]]), doubles([[[0, 1]], [[1, 0]]], [[[0, 0]], [[0, -1]]])]


def test_layerwise_layers_by_hand() -> None:
    made = worked_out(Layerwise()).block(FEATURES, TAUGHT)
    assert made.student.tolist() == [[[[3, -1]]], [[[-1, 1]]]]
    assert made.encoded.tolist() == [[[[3.5, -0.5]]], [[[2.5, -1.5]]]]
    assert made.decoded[0].tolist() == made.encoded.tolist()
    assert made.decoded[1].tolist() == [[[[1, 1]], [[-3, 1]]], [[[1, 1]], [[-2, 2]]]]


def test_layerwise_terms_by_hand() -> None:
    """Squared errors of both samples' positions; batches of one and of two."""
    made = worked_out(Layerwise()).block(FEATURES, TAUGHT)
    one, two = 0.25 + 0.25, 3.5**2 + 2.5**2
    assert layerwise.alignment(made.student[:1], made.encoded[:1]).item() == one / 2
    assert layerwise.alignment(made.student, made.encoded).item() == (one + two) / 4
    first = 2.5**2 + 0.25, 0.25 + 1.5**2  # of the first teacher, sample by sample
    second = 1 + 0 + 16 + 1, 1 + 1 + 4 + 9
    assert reconstruction(made.decoded, TAUGHT).item() == sum(first) / 4 + sum(second) / 8
    decoded, taught = ([each[:1] for each in several] for several in (made.decoded, TAUGHT))
    assert reconstruction(decoded, taught).item() == first[0] / 2 + second[0] / 4


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        (Layerwise(), (1, 1, 1)),
        (Layerwise(soft_targets=2.0, alignment=3.0, reconstruction=5.0), (2, 3, 5)),
    ],
)
def test_layerwise_by_hand(options: Layerwise, weights: tuple[float, float, float]) -> None:
    """Of logits (0, log 3) for a student, log 2 and log 6 of two teachers; the second sample's are equal."""
    logits = doubles([0, log(3)], [1, 1])
    teachers = [doubles([log(2)], [5]), doubles([log(6)], [5])]
    even = doubles([log(6)], [5])
    loss = worked_out(options)
    # 1/4 and 3/4 on both sides: no divergence; against 1/2 and 1/2: -log(2 sqrt(1/4 * 3/4))
    apart = -log(2 * (3 / 16) ** 0.5)
    for other, divergence in ((teachers[0], 0.0), (even, apart)):
        one = loss(logits[:1], [other[:1], teachers[1][:1]], FEATURES[:1], [each[:1] for each in TAUGHT])
        both = loss(logits, [other, teachers[1]], FEATURES, TAUGHT)
        parts = (divergence, 0.25, 3.25 + 4.5), (divergence / 2, 4.75, 2.25 + 4.125)
        for made, terms in zip((one, both), parts, strict=True):
            assert made.item() == pytest.approx(
                sum(w * term for w, term in zip(weights, terms, strict=True)), rel=1e-12
            )


@pytest.mark.parametrize("compared", ["cross_entropy", "divergence"])
def test_soft_is_the_soft_targets_alone(compared: amalgamate.Compared) -> None:
    """Student 1/4 and 3/4, teachers 1/2 and 1/2 where temperature 2 has been taken off; batches of one and of two."""
    logits = doubles([0, 2 * log(3)], [7, 7])
    teachers = [Outputs(doubles([4], [-2])), Outputs(doubles([4], [-2]))]
    options = Soft(temperature=2.0, compared=compared)
    left = log(2) if compared == "divergence" else 0.0  # the entropy of the targets
    one, two = -log((3 / 16) ** 0.5) - left, log(2) - left
    both = options.value(Given(Outputs(logits), teachers, None, 1), None)
    assert both.item() == pytest.approx(4 * (one + two) / 2, rel=1e-12)
    alone = options.value(Given(Outputs(logits[:1]), [Outputs(each.logits[:1]) for each in teachers], None, 1), None)
    assert alone.item() == pytest.approx(4 * one, rel=1e-12)


# --- whatever the sets -------------------------------------------------------------------------------------------


@ANY
@given(samples=st.integers(1, 6), dimensions=st.integers(1, 5), seed=seeds)
def test_discrepancy_is_zero_of_equal_sets_and_never_below(samples: int, dimensions: int, seed: int) -> None:
    one, other = normal((samples, dimensions, 2), seed), normal((samples, dimensions, 2), seed + 1)
    assert mmd(one, one) == 0
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    assert 0 <= mmd(one, one[order]) < 1e-9  # where rounding would have it below
    assert mmd(one, other) >= 0
    assert mmd(one.float(), one.float()) == 0
    close(mmd(one, other), mmd(other, one))


@ANY
@given(samples=st.integers(2, 6), seed=seeds, scale=st.floats(0.01, 100.0))
def test_discrepancy_minds_neither_rotation_of_both_nor_scale(samples: int, seed: int, scale: float) -> None:
    one, other = normal((samples, 4), seed), normal((samples, 4), seed + 1)
    rotation = torch.linalg.qr(normal((4, 4), seed + 2)).Q
    close(mmd(scale * one @ rotation, other @ rotation), mmd(one, other), 1e-7)
    assert mmd(one, -one) > 1e-3


@ANY
@given(samples=st.integers(1, 5), seed=seeds)
def test_soft_targets_of_one_teacher_who_is_the_student_are_no_divergence(samples: int, seed: int) -> None:
    student = normal((samples, 5), seed, 3.0)
    parts = [student[:, :2], student[:, 2:3], student[:, 3:]]
    assert soft_targets(student, parts, 3.0, "divergence") == 0
    # what stands on one teacher's logits alone does change the union's probabilities
    assert soft_targets(student, [parts[0] + 1.0, *parts[1:]], 3.0, "divergence") > 0


@ANY
@given(samples=st.integers(1, 5), dimensions=st.integers(1, 4), seed=seeds, scale=st.floats(0.1, 10.0))
def test_the_layerwise_error_is_none_at_the_encoding_and_grows_by_the_square(
    samples: int, dimensions: int, seed: int, scale: float
) -> None:
    block = LayerwiseBlock(dimensions, [2, 3]).double()
    taught = [normal((samples, 2, 2, 3), seed), normal((samples, 3, 2, 3), seed + 1)]
    encoded = block(normal((samples, dimensions, 2, 3), seed + 2), taught).encoded
    # a student whose features are the encoding, and an adapter that leaves them
    block.adapter.load_state_dict({"weight": torch.eye(dimensions)[:, :, None, None], "bias": torch.zeros(dimensions)})
    assert layerwise.alignment(block(encoded, taught).student, encoded) < 1e-20
    shift = normal(tuple(encoded.shape), seed + 3)
    close(layerwise.alignment(encoded + scale * shift, encoded), scale**2 * shift.square().mean())


@ANY
@given(samples=st.integers(1, 5), seed=seeds)
def test_layerwise_minds_the_order_of_neither_samples_nor_positions(samples: int, seed: int) -> None:
    loss = Layerwise().build(3, [2, 4]).double()
    logits, answers = normal((samples, 5), seed), [normal((samples, 2), seed + 1), normal((samples, 3), seed + 2)]
    features = normal((samples, 3, 2, 2), seed + 3)
    taught = [normal((samples, 2, 2, 2), seed + 4), normal((samples, 4, 2, 2), seed + 5)]
    made = loss(logits, answers, features, taught)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    moved = [[each[order].mT for each in several] for several in ([features], taught)]
    close(loss(logits[order], [each[order] for each in answers], moved[0][0], moved[1]), made)


# --- layers ------------------------------------------------------------------------------------------------------


def sizes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in module.parameters()]


def test_layers_are_the_official_ones_in_their_order() -> None:
    """Weights of the official module, in the order of its `parameters()`: copied one after the other they fit."""
    extractor = [(4, 8, 3, 3), (4, 4, 3, 3), (4, 8, 1, 1), *[(4, 4, 3, 3)] * 4]
    decoders = [(6, 4, 3, 3), (6, 6, 1, 1), (7, 4, 3, 3), (7, 7, 1, 1)]
    aligned = [(8, 6, 1, 1), (8, 7, 1, 1), (8, 5, 1, 1)]  # teachers, student
    assert sizes(CommonFeatures(5, [6, 7], 4, "maps")) == [*aligned, *extractor, *decoders]

    def linear(outputs: int, inputs: int) -> list[tuple[int, ...]]:
        return [(outputs, inputs), (outputs,)]

    vectors = [(4, 6), (4, 7), (4, 5), (4, 4), (4, 4), (6, 4), (6, 6), (7, 4), (7, 7)]
    expected = [size for shape in vectors for size in linear(*shape)]
    assert sizes(CommonFeatures(5, [6, 7], 4, "vectors")) == expected


def test_one_extractor_is_shared_by_all() -> None:
    module = CommonFeatures(3, [3], 2, "maps")
    module.align_student.load_state_dict(module.align_teachers[0].state_dict())
    maps = torch.randn(2, 3, 4, 4)
    common = module(maps, [maps])
    assert torch.equal(common.student, common.teachers[0])
    assert common.student.shape == (2, 2, 4, 4) and common.decoded[0].shape == (2, 3, 4, 4)


def test_layerwise_layers_are_the_official_ones_in_their_order() -> None:
    """Weights of the official block, in the order of its `parameters()`: copied one after the other they fit."""
    encoder, adapter, decoder = [(5, 13, 1, 1), (5,)], [(5, 5, 1, 1), (5,)], [(13, 5, 1, 1), (13,)]
    assert sizes(LayerwiseBlock(5, [6, 7])) == [*encoder, *adapter, *decoder]


def test_each_layerwise_term_trains_its_own_layers() -> None:
    """Alignment the adapter and the student, reconstruction the encoder and the decoder, and neither the teachers."""

    def trained(term: str) -> set[str]:
        block = LayerwiseBlock(3, [2, 4])
        given = {
            "student": torch.randn(2, 3, 2, 2),
            "first": torch.randn(2, 2, 2, 2),
            "second": torch.randn(2, 4, 2, 2),
        }
        taught = [given[name].requires_grad_() for name in ("first", "second")]
        made = block(given["student"].requires_grad_(), taught)
        terms = {
            "alignment": lambda: layerwise.alignment(made.student, made.encoded),
            "reconstruction": lambda: reconstruction(made.decoded, taught),
        }
        terms[term]().backward()
        weights = {name: weight for name, weight in block.named_parameters() if name.endswith("weight")}
        return {name for name, tensor in {**given, **weights}.items() if tensor.grad is not None}

    assert trained("alignment") == {"student", "adapter.weight"}
    assert trained("reconstruction") == {"encoder.weight", "decoder.weight"}


@pytest.mark.parametrize("autocast", [False, True])
def test_layerwise_parts_compute_half_precision_in_float32(autocast: bool) -> None:
    """Called alone, too."""
    block = LayerwiseBlock(3, [2])
    student, taught = normal((2, 3, 2, 2), 0).bfloat16(), normal((2, 2, 2, 2), 1).bfloat16()
    wide = block(student.float(), [taught.float()])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        made = block(student, [taught])
        error = layerwise.alignment(student, student.flip(0))
    assert torch.equal(made.student, wide.student) and torch.equal(made.decoded[0], wide.decoded[0])
    assert torch.equal(error, layerwise.alignment(student.float(), student.float().flip(0)))


def test_the_width_of_the_space_is_the_options() -> None:
    assert VARIANTS["kamal"].build(512, [512, 300]).common.align_student[0].out_features == 128
    assert VARIANTS["official"].build(512, [256]).common.align_student[0].out_channels == 2 * 128
    assert Cfl(width=9).build(512, [256]).common.align_student[0].out_channels == 18


@pytest.mark.parametrize(
    "options",
    [Cfl(features="vectors", width=8), Soft(compared="divergence"), Layerwise()],
    ids=["cfl", "soft", "layerwise"],
)
def test_a_student_is_drawn_to_its_teachers(options: Criterion) -> None:
    """Two teachers of two classes each, no labels: after some steps the answers to the union are theirs."""
    torch.manual_seed(0)
    images = torch.randn(24, 6)
    teachers = [nn.Linear(6, 2), nn.Linear(6, 2)]
    with torch.no_grad():
        answers = [4 * teacher(images) for teacher in teachers]
    features, classify = nn.Sequential(nn.Linear(6, 32), nn.ReLU()), nn.Linear(32, 4)

    def seen(values: Tensor) -> Tensor:
        return values[:, :, None, None] if options.layer == "last" else values

    taught = [Outputs(answer, seen(images)) for answer in answers]
    layers = options.layers_for(Outputs(classify(features(images)), seen(features(images))), taught)
    trained = [*features.parameters(), *classify.parameters(), *(layers.parameters() if layers else [])]
    optimizer = torch.optim.Adam(trained, lr=0.03)
    losses = []
    for epoch in range(1, 251):
        optimizer.zero_grad()
        made = features(images)
        loss = options.value(Given(Outputs(classify(made), seen(made)), taught, None, epoch), layers)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    right = (classify(features(images)).argmax(1) == torch.cat(answers, dim=1).argmax(1)).float().mean()
    assert losses[-1] < 0.5 * losses[0] and right > 0.9


# --- as an experiment asks ---------------------------------------------------------------------------------------

CRITERIA: dict[str, tuple[Criterion, str | None]] = {
    "cfl": (Cfl(width=3), "last"),
    "cfl_vectors": (Cfl(features="vectors", width=8), "pooled"),
    "soft": (Soft(), None),
    "layerwise": (Layerwise(alignment=2.0), "last"),
}
EACH = pytest.mark.parametrize(("options", "layer"), CRITERIA.values(), ids=CRITERIA)


def outputs(layer: str | None, dtype: torch.dtype = torch.float64) -> tuple[Outputs, list[Outputs]]:
    """A student of five classes, teachers of two and three, of other channels than its own."""

    def one(classes: int, channels: int) -> Outputs:
        rest = {None: None, "pooled": (), "last": (3, 2)}[layer]
        features = None if rest is None else normal((4, channels, *rest), channels).to(dtype).requires_grad_()
        return Outputs(normal((4, classes), classes).to(dtype).requires_grad_(), features)

    return one(5, 8), [one(2, 6), one(3, 7)]


@EACH
def test_reads_no_labels_and_names_its_layer(options: Criterion, layer: str | None) -> None:
    assert options.taught and not options.labelled and not options.warms_up
    assert options.layer == layer
    student, teachers = outputs(layer)
    torch.manual_seed(0)
    layers = options.layers_for(student, teachers)
    layers = layers.double() if layers else None
    made = options.value(Given(student, teachers, None, 1), layers)
    assert torch.equal(made, options.value(Given(student, teachers, torch.zeros(4, dtype=torch.long), 9), layers))
    made.backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in student if tensor is not None)
    assert all(tensor.grad is None for teacher in teachers for tensor in teacher if tensor is not None)


@EACH
def test_the_value_is_that_of_the_plain_loss(options: Any, layer: str | None) -> None:
    student, teachers = outputs(layer)
    layers = options.layers_for(student, teachers)
    logits = [teacher.logits for teacher in teachers]
    if layers is None:
        assert isinstance(options, Soft)
        plain = soft_targets(student.logits, logits)
    else:
        torch.manual_seed(0)
        plain_loss = options.build(8, [6, 7]).double()
        layers.double().load_state_dict(plain_loss.state_dict())
        plain = plain_loss(student.logits, logits, student.maps, [teacher.maps for teacher in teachers])
    assert torch.equal(options.value(Given(student, teachers, None, 1), layers), plain)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_dry(options: Criterion, layer: str | None, dtype: torch.dtype) -> None:
    """On tensors without numbers, from layers made for them: shapes alone."""

    def dry(one: Outputs) -> Outputs:
        logits, features = (tensor if tensor is None else tensor.detach().to("meta").requires_grad_() for tensor in one)
        assert logits is not None
        return Outputs(logits, features)

    real = outputs(layer, dtype)
    student, teachers = dry(real[0]), [dry(teacher) for teacher in real[1]]
    layers = options.layers_for(student, teachers)
    of_real = options.layers_for(*real)
    assert (layers is None) == (of_real is None) == (layer is None)
    if layers is not None and of_real is not None:
        assert sizes(layers) == sizes(of_real)
        layers.to("meta")
    made = options.value(Given(student, teachers, None, 1), layers)
    made.backward()
    assert made.is_meta and made.shape == () and made.dtype == torch.float32
    assert student.logits.grad is not None and student.logits.grad.is_meta
    short = Outputs(student.logits[:, :-1], student.features)
    with pytest.raises(InputError, match="must agree"):
        options.value(Given(short, teachers, None, 1), layers)


@pytest.mark.parametrize("name", ["cfl", "cfl_vectors", "layerwise"])
def test_layers_for_features_of_another_form_are_refused(name: str) -> None:
    options, layer = CRITERIA[name]
    student, teachers = outputs("pooled" if layer == "last" else "last")
    with pytest.raises(
        InputError, match=r"features of student and teachers are .*; (maps|vectors) are \(batch"
    ) as refused:
        options.layers_for(student, teachers)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="one or more"):
        options.layers_for(outputs(layer)[0], [])


# --- options and refusals ----------------------------------------------------------------------------------------


def test_the_defaults_are_the_official_ones() -> None:
    official = {"soft_targets": 1.0, "alignment": 10.0, "reconstruction": 10.0, "temperature": 1.0}
    assert Cfl().dump() == {**official, "compared": "cross_entropy", "features": "maps", "width": 128, "resize": "none"}
    kamal = {"compared": "divergence", "features": "vectors", "width": "quarter"}
    assert VARIANTS["official"] == Cfl() and VARIANTS["kamal"] == Cfl(**kamal)  # type: ignore[arg-type]
    four = {**official, **kamal, "alignment": 20.0, "reconstruction": 20.0, "resize": "none"}
    assert VARIANTS["kamal_four"].dump() == four
    assert Soft().dump() == {"compared": "cross_entropy", "temperature": 1.0}
    weights = {"soft_targets": 1.0, "alignment": 1.0, "reconstruction": 1.0}
    assert Layerwise().dump() == {**weights, "compared": "divergence", "temperature": 1.0, "resize": "none"}
    assert amalgamate.SIGMAS == (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)


def test_each_loss_stands_under_its_word() -> None:
    words: dict[str, Criterion] = {"cfl": Cfl(), "soft": Soft(), "layerwise": Layerwise()}
    choice = amalgamate.Amalgamation.__metadata__[0]  # type: ignore[attr-defined]
    assert set(choice.options) == set(words)
    for word, options in words.items():
        assert parse(Union, {"loss": word}).loss == options
    assert parse(Union, {"loss": {"layerwise": {"alignment": 3.0}}}).loss == Layerwise(alignment=3.0)
    with pytest.raises(InputError, match="nearest is 'temperature'"):
        parse(Union, {"loss": {"soft": {"temprature": 2.0}}})
    with pytest.raises(InputError, match="reconstruction"):
        parse(Union, {"loss": {"layerwise": {"reconstruction": -1.0}}})


A = torch.zeros(2, 4)
M = torch.zeros(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: soft_targets(A, []), "teachers' logits are none"),
        (lambda: soft_targets(A, [A[:, :2], A[:1, 2:]]), r"they must be \(2, classes\) each"),
        (lambda: soft_targets(A, [A[:, :2], A]), r"\(2, 4\) and \(2, 6\)"),
        (lambda: mmd(A, A[:1]), "they must agree"),
        (lambda: mmd(A[:0], A[:0]), "they must agree"),
        (lambda: alignment(A, []), "one or more"),
        (lambda: reconstruction([A], [A, A]), "they must agree"),
        (lambda: reconstruction([A], [A[:1]]), "they must agree"),
        (lambda: reconstruction([], []), "they must agree"),
        (lambda: CommonFeatures(3, [], 2, "maps"), "one or more"),
        (lambda: CommonFeatures(4, [4], 2, "vectors")(A, [A, A]), "must agree as"),
        (lambda: CommonFeatures(4, [3], 2, "vectors")(A, [A]), "must agree as"),
        (lambda: CommonFeatures(4, [4], 2, "maps")(A, [A]), r"\(batch, 4, height, width\)"),
        (lambda: CommonFeatures(4, [4], 2, "maps")(torch.zeros(2, 4, 3, 3), [torch.zeros(2, 4, 3, 2)]), "must agree"),
        (lambda: Soft().value(Given(Outputs(A), [], None, 1), None), "teachers' logits are none"),
        (lambda: Soft().value(Given(Outputs(A), [Outputs(A)] * 2, None, 1), None), r"\(2, 4\) and \(2, 8\)"),
        (lambda: LayerwiseBlock(3, []), "one or more"),
        (lambda: LayerwiseBlock(4, [4])(A, [A]), r"\(batch, 4, height, width\)"),
        (lambda: LayerwiseBlock(4, [4])(M, [M, M]), "must agree as"),
        (lambda: LayerwiseBlock(4, [4, 4])(M, [M]), "must agree as"),
        (lambda: LayerwiseBlock(4, [3])(M, [M]), "must agree as"),
        (lambda: LayerwiseBlock(4, [3, 5])(M, [torch.zeros(2, 5, 3, 3), torch.zeros(2, 3, 3, 3)]), "must agree as"),
        (lambda: LayerwiseBlock(4, [4])(M, [M[:1]]), "must agree as"),
        (lambda: LayerwiseBlock(4, [4])(M, [M[..., :2]]), "must agree as"),
        (lambda: LayerwiseBlock(4, [4])(M, [M[..., :1, :]]), "must agree as"),
        (lambda: layerwise.alignment(M, M[:, :1]), "must agree"),
        (lambda: layerwise.alignment(M[:1], M), "must agree"),
        (lambda: layerwise.alignment(M[:0], M[:0]), "must agree"),
    ],
)
def test_what_does_not_agree_is_refused_by_one_line(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)

"""A transfer in a loop that is not ours: the same weights as a run, resumed, interrupted, misused, in any precision."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mergenet
from mergenet.config import Options, fields_of
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.library import Transfer, Transfers
from mergenet.library.keywords import Keywords
from mergenet.method.factorization import factor
from mergenet.method.options import TransferOptions
from mergenet.models import MODELS, find_model
from tests.gpu import NEEDS_GPU
from tests.loops import FROM, TO, Loop, networks, small, vector
from tests.plain import Plain
from tests.refused import refusal
from tests.smooth import SMOOTH
from tests.test_controls import CLASSIFIER, CYCLE, HIDDEN, STEPS, by_hand
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
ADAPTER = {"lpka": {"width": 16, "heads": 2, "depth": 1}}
BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


def make(source: Any, target: nn.Module, ends: tuple[str, str] = (FROM, TO), **change: Any) -> Transfer:
    return Transfer(source, target, *ends, **small(**change))


# --- the same as a run and as a loop written out -------------------------------------------------------------------


def in_a_loop(digits: Images, **options: Any) -> tuple[Plain, Plain]:
    """Plain learners with a `Transfer` between them."""
    source, target = Plain(digits, 0), Plain(digits, 1)
    keywords = {"encoding": "whole", "cycle": CYCLE, "adapter": ADAPTER, "optimizer": {"adamw": {"lr": 1e-2}}}
    given = {**keywords, "steps": STEPS, "schedule": "cosine", **options}
    transfer = Transfer(source.model, target.model, CLASSIFIER, HIDDEN, target_optimizer=target.optimizer, **given)
    for step in range(STEPS):
        with transfer:
            source.step(step)
            target.step(step)
    return source, target


@pytest.mark.parametrize("update", ["delta", "loss"])
def test_it_equals_the_loop_written_out(digits: Images, update: Any) -> None:
    expected = by_hand(digits, lambda source, target, step: source.matrix(CLASSIFIER), update=update)
    assert expected.has_the_weights_of(in_a_loop(digits, update=update)[1].model)


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": {"svd": {"rank": 3}}, "span": "cycle", "stop": 0.7},
        {"adapter": {"lpka": {**ADAPTER["lpka"], "form": "paper", "dropout": 0.2}}, "match": "rows", "blend": 0.5},
        {"control": "shuffled", "optimizer_state": "rescale", "schedule": "constant"},
        {"control": "initial", "bias": True},
        {"control": "own"},
        {"enabled": False},
    ],
)
def test_it_equals_a_run_of_the_same_options(
    options: dict[str, Any], small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    learner = {"model": "smooth", "task": {"classification": {"data": "digits"}}}
    main = {"from": "source.classifier", "to": "target.2", "encoding": "whole", "cycle": CYCLE, "adapter": ADAPTER}
    change = {
        "learners": {"source": learner, "target": {**learner, "copy": 1}},
        "transfers": {"main": {**main, "optimizer": {"adamw": {"lr": 1e-2}}, **options}},
        "training": {"epochs": 2},
    }
    graph = run(graph_of(small(change), digits), STEPS)
    source, target = in_a_loop(digits, **options)
    assert source.has_the_weights_of(graph.learners["source"].model)
    assert target.has_the_weights_of(graph.learners["target"].model)


def test_its_keywords_are_the_options_of_a_run() -> None:
    assert Keywords.__annotations__.keys() == fields_of(TransferOptions).keys() - {"from", "to"}


def test_the_package_has_both_at_its_door() -> None:
    assert mergenet.Transfer is Transfer and mergenet.Transfers is Transfers
    assert {"Transfer", "Transfers"} <= set(mergenet.__all__)


# --- ticks -------------------------------------------------------------------------------------------------------


def test_it_writes_and_learns_on_due_ticks_alone() -> None:
    source, target = networks()
    transfer = make(source, target, cycle=3)
    loop, updates = Loop(source, target), []
    for _ in range(8):
        loop.run(transfer, 1)
        updates.append(transfer.updates)
    assert updates == [0, 0, 0, 1, 1, 1, 2, 2] and transfer.ticks == 8
    assert repr(transfer) == "Transfer(2 (5, 12) -> 0 (8, 6), cycle 3: 8 ticks, 2 updates)"


def test_it_changes_the_target_and_not_the_source_and_leaves_random_numbers_alone() -> None:
    ends = {}
    for enabled in (True, False):
        source, target = networks()
        torch.manual_seed(7)
        transfer = make(source, target, adapter={"lpka": {"width": 8, "heads": 2, "dropout": 0.5}}, enabled=enabled)
        Loop(source, target).run(transfer, 6)
        ends[enabled] = vector(source), vector(target), torch.rand(3)
    assert torch.equal(ends[True][0], ends[False][0]) and torch.equal(ends[True][2], ends[False][2])
    assert not torch.equal(ends[True][1], ends[False][1])


def test_begin_and_end_are_the_same_as_the_block() -> None:
    one, other = networks(), networks()
    Loop(*one).run(make(*one), 6)
    transfer, loop = make(*other), Loop(*other)
    for _ in range(6):
        transfer.begin()
        loop.step()
        transfer.end()
    assert torch.equal(vector(*one), vector(*other))


def test_without_steps_the_rate_is_constant_and_it_never_stops() -> None:
    models = networks()
    transfer = make(*models, span="cycle")
    Loop(*models).run(transfer, 12)
    assert transfer.updates == 5 and transfer._engine.optimizer.param_groups[0]["lr"] == 1e-2
    for name, value in (("schedule", "cosine"), ("start", 0.1), ("stop", 0.9)):
        message = refusal(lambda name=name, value=value: make(*models, **{name: value}))
        assert message == f"{name}: is told in shares of the run; say how many ticks that has, steps=10_000"


def test_with_steps_the_rate_follows_the_cosine_and_the_last_span_ends_with_the_run() -> None:
    models = networks()
    transfer = make(*models, steps=7, span="cycle", cycle=3)
    Loop(*models).run(transfer, 12)
    assert transfer.updates == 2  # read before ticks 3 and 6; nothing from 7 on
    assert transfer._engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)


def test_in_a_run_that_is_resumed_as_a_shorter_one_the_rate_has_come_to_its_end() -> None:
    models = networks()
    long = make(*models, steps=100, cycle=2)
    loop = Loop(*models)
    loop.run(long, 20)
    short = make(*models, steps=22, cycle=2)
    state = long.state_dict()
    state["transfer"]["updates"] = 40  # more than a run of 22 ticks has
    short.load_state_dict(state)
    loop.run(short, 2)
    assert short.updates == 41
    assert short._engine.optimizer.param_groups[0]["lr"] == 0.0


def test_self_transfer_and_a_frozen_source_of_three_kinds() -> None:
    _, target = networks()
    within = make(target, target, ("4", "0"))
    Loop(target).run(within, 6)
    assert within.updates == 2
    ends = []
    for frozen in (
        lambda model: model,
        lambda model: model.state_dict(),
        lambda model: {FROM: model[2].weight.double()},
    ):
        source, target = networks()
        Loop(target).run(make(frozen(source), target), 6)
        ends.append(vector(target))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], vector(networks()[1]))


def test_factors_take_part_by_their_names() -> None:
    source, target = networks()
    for model, port in ((source, FROM), (target, TO)):
        factor(model, {port: 3}, {})
    transfer = Transfer(source, target, FROM, TO, encoding="factored", cycle=2)
    Loop(source, target).run(transfer, 6)
    assert transfer.updates == 2 and transfer._engine.port.shape == (3, 6)


# --- resume ------------------------------------------------------------------------------------------------------


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """`state` from a file, as anyone may open it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stopped", [2, 5, 6])
@pytest.mark.parametrize(
    "options",
    [{"cycle": 4, "span": "cycle"}, {"control": "initial"}, {"adapter": {"lpka": {"form": "paper", "dropout": 0.2}}}],
)
def test_it_resumes_bit_for_bit_anywhere(options: dict[str, Any], stopped: int) -> None:
    whole, cut, after = networks(), networks(), networks()
    Loop(*whole).run(make(*whole, steps=10, **options), 10)
    transfer, loop = make(*cut, steps=10, **options), Loop(*cut)
    loop.run(transfer, stopped)
    states = saved({"transfer": transfer.state_dict(), "loop": loop.state()})
    loop = Loop(*after)
    loop.load(states["loop"])
    transfer = make(*after, steps=10, **options)
    transfer.load_state_dict(states["transfer"])
    loop.run(transfer, 10 - stopped)
    assert torch.equal(vector(*whole), vector(*after)) and transfer.ticks == 10


def test_the_state_of_another_transfer_is_refused() -> None:
    models = networks()
    state = make(*models).state_dict()
    assert refusal(lambda: make(*models, cycle=3).load_state_dict(state)) == (
        "state: is of a transfer whose `cycle` is 2, and here it is 3"
    )
    assert "`to` is '0', and here it is '2'" in refusal(lambda: make(*models, (FROM, "2")).load_state_dict(state))
    assert "`seed` is 0, and here it is 1" in refusal(lambda: make(*models, seed=1).load_state_dict(state))
    make(*models, steps=100, schedule="constant").load_state_dict(state)  # to train longer is allowed
    assert refusal(lambda: make(*models).load_state_dict(models[0].state_dict())) == "state: is not that of a Transfer"
    assert refusal(lambda: Transfers([make(*models)]).load_state_dict(state)) == "state: is not that of Transfers"
    both = Transfers([make(*models), make(*models, (FROM, "2"))])
    assert refusal(lambda: Transfers([make(*models)]).load_state_dict(both.state_dict())) == (
        "state: is of 2 transfers, and here are 1"
    )


class Scale(nn.Module):
    """X times a learned factor, and a little of the source's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.factor * x + 0.01 * y.mean()


class Scaling(Options):
    """An adapter that no file can name."""

    power: int = 1

    def build(self, x: tuple[int, int], y: tuple[int, int]) -> nn.Module:
        return Scale()


def test_an_adapter_of_ones_own_takes_part_and_is_resumed_as_what_it_is() -> None:
    models = networks()
    transfer = make(*models, adapter=Scaling())
    loop = Loop(*models)
    loop.run(transfer, 5)
    assert isinstance(transfer.adapter, Scale) and transfer.adapter.factor != 1
    state = saved(transfer.state_dict())
    again = make(*models, adapter=Scaling())
    again.load_state_dict(state)
    assert torch.equal(again.adapter.factor, transfer.adapter.factor)  # type: ignore[arg-type]
    other = make(*models, adapter=Scaling(power=2))
    assert "`adapter` is {'tests.test_library.Scaling': {'power': 1}}" in refusal(lambda: other.load_state_dict(state))


# --- a step that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["step", "cycle"])
def test_a_step_that_raises_is_no_tick_and_nothing_is_learned_from_it(span: str) -> None:
    models = networks()
    transfer, loop = make(*models, span=span), Loop(*models)
    loop.run(transfer, 4)
    adapter = vector(transfer.adapter)
    with pytest.raises(MemoryError), transfer:
        raise MemoryError
    assert transfer.ticks == 4 and torch.equal(vector(transfer.adapter), adapter)
    loop.run(transfer, 3)  # that tick and those after it
    assert transfer.ticks == 7 and transfer.updates == {"step": 3, "cycle": 2}[span]


def test_a_cycle_survives_a_step_that_raises_in_its_midst() -> None:
    one, other = networks(), networks()
    Loop(*one).run(make(*one, span="cycle", cycle=4), 10)
    transfer, loop = make(*other, span="cycle", cycle=4), Loop(*other)
    loop.run(transfer, 6)
    with pytest.raises(MemoryError), transfer:
        raise MemoryError
    loop.run(transfer, 4)
    assert torch.equal(vector(*one), vector(*other))


@pytest.mark.parametrize("broken", ["source", "target"])
@pytest.mark.parametrize("encoding", ["whole", {"svd": {"rank": 3}}])
def test_what_is_not_finite_is_not_written_and_the_loop_goes_on(encoding: Any, broken: str) -> None:
    source, target = networks()
    options = {name: value for name, value in small(encoding=encoding).items() if name != "rank"}
    transfer, loop = Transfer(source, target, FROM, TO, **options), Loop(target)
    loop.run(transfer, 4)
    with torch.no_grad():
        (source[2] if broken == "source" else target[0]).weight[0, 0] = torch.nan
    before = target[0].weight.clone()
    with pytest.warns(
        RuntimeWarning, match=r"^Transfer\(2 .* nothing was written, and nothing is transferred any more"
    ):
        transfer.begin()
    assert torch.equal(target[0].weight.isnan(), before.isnan()) and transfer.broken_at == 4
    transfer.end()
    loop.run(transfer, 4)
    assert transfer.ticks == 9 and transfer.updates == 1
    assert vector(target).isfinite().all() == (broken == "source")
    again = Transfer(source, target, FROM, TO, **options)
    again.load_state_dict(saved(transfer.state_dict()))
    loop.run(again, 4)
    assert again.broken_at == 4


# --- wrong use ---------------------------------------------------------------------------------------------------


def test_ticks_out_of_order_are_refused() -> None:
    transfer = make(*networks())
    assert refusal(transfer.end) == "end: no tick has begun; begin() one before the step"
    transfer.begin()
    assert refusal(transfer.begin) == (
        "begin: the last tick has not ended; end() it, or abandon() it if its step failed"
    )
    transfer.abandon()
    transfer.begin()
    transfer.end()
    assert transfer.ticks == 1


def test_a_loss_without_its_gradient_is_refused() -> None:
    models = networks()
    transfer, loop = make(*models, update="loss"), Loop(*models)
    loop.run(transfer, 2)
    transfer.begin()
    loop.step()
    loop.optimizers[1].zero_grad()
    assert refusal(transfer.end) == (
        "update: 'loss' needs the gradient of '0' when the tick ends, and there is none; "
        "call zero_grad before the forward pass and not after the step"
    )


def test_a_weight_that_was_replaced_is_refused_where_it_would_be_used() -> None:
    for which in (0, 1):
        models = networks()
        transfer, loop = make(*models), Loop(*models)
        layer = models[which][2 - 2 * which]
        layer.weight = nn.Parameter(layer.weight.detach().clone())
        loop.run(transfer, 2)
        name = ("source: '2.weight'", "target: '0.weight'")[which]
        assert refusal(transfer.begin).startswith(f"{name} is another tensor than when the transfer was made; make it")


REFUSED = [
    ({"cycel": 3}, "cycel: unknown key; nearest is 'cycle'"),
    ({"rank": 6}, "from_port '2': rank 6 is above 5, the most a 5 x 12 matrix has"),
    ({"rank": 0}, "encoding.svd.rank: input should be greater than 0, got 0"),
    ({"encoding": "whole"}, "rank: is that of the encoding 'svd', and `encoding` is given; leave one of them out"),
    ({"steps": 0}, "steps: ticks of the whole run, a whole number above 0, got 0"),
    ({"steps": 1e4}, "steps: ticks of the whole run, a whole number above 0, got 10000.0"),
    ({"control": "random"}, "control: 'random' is a source that is built anew; pass one as `source`, and leave it out"),
    (
        {"optimizer_state": "reset"},
        "optimizer_state: is that of the optimizer of the target; pass it as target_optimizer",
    ),
    ({"flattening": "kernel"}, "flattening: neither end is a kernel above 1 x 1; leave it out"),
    ({"batchnorm": "reset"}, "batchnorm: no BatchNorm comes right behind '0'; leave it at 'keep'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_does_not_fit_is_one_line(options: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: make(*networks(), **options))


def test_ends_that_do_not_fit_are_one_line() -> None:
    source, target = networks()
    assert refusal(lambda: make(source, target, ("3", TO))) == "source: no port '3'; there is 0, 2"
    assert refusal(lambda: make(source, target, (FROM, "0.wieght"))) == "target: no port '0.wieght'; there is 0, 2, 4"
    assert refusal(lambda: make(target, source, (TO, FROM), rank=6)) == (
        "to_port '2': rank 6 is above 5, the most a 5 x 12 matrix has"
    )
    assert refusal(lambda: make(source, target, (0, TO))) == "source: a port is a name like 'fc.weight', got 0"  # type: ignore[arg-type]
    assert "only a matrix or a kernel" in refusal(lambda: make(source, target, (FROM, "0.bias")))
    assert refusal(lambda: make(target, target, ("0", "0.weight"))) == (
        "to_port: '0.weight' is what it reads; name another port"
    )
    assert refusal(lambda: make(source[2].weight, target)).startswith("source: is a torch.nn.Module or a map")
    assert refusal(lambda: make(source, target.state_dict())) == "target: is a torch.nn.Module, got OrderedDict"  # type: ignore[arg-type]
    whole = {FROM: torch.ones(5, 12, dtype=torch.int8)}
    assert refusal(lambda: make(whole, target)) == "source: '2' holds int8; only floating point numbers can be read"
    assert refusal(lambda: make(source, target.double())) == (
        "target: '0.weight' holds float64, and what is written is float32; cast the model"
    )
    others = torch.optim.SGD(source.parameters(), lr=0.1)
    assert refusal(lambda: make(source, networks()[1], optimizer_state="reset", target_optimizer=others)) == (
        "target_optimizer: does not train '0'; pass the one that does"
    )
    still = torch.optim.SGD((target := networks()[1]).parameters(), lr=0.1)
    assert refusal(lambda: make(source, target, optimizer_state="reset", target_optimizer=still)) == (
        "optimizer_state: SGD without momentum remembers nothing; leave it at 'keep'"
    )


def test_models_that_are_known_have_ports_by_their_names() -> None:
    source, target = find_model("resnet18-narrow").build(10), find_model("mobilenet_v2-cifar").build(10)
    transfer = Transfer(source, target, "classifier", "irb16", rank=4)
    assert transfer._engine.key == (0, "fc", "features.16.conv.2")
    first = find_model("mobilenet_v2-narrow").build(10)
    assert Transfer(source, first, "classifier", "irb1", rank=4)._engine.key[2] == "features.1.conv.1"
    assert refusal(lambda: Transfer(source, target, "classifier", "irb61")) == (
        "target: no port 'irb61'; nearest is 'irb6'"
    )
    named = nn.ModuleDict({"fc": nn.Linear(9, 9), "classifier": nn.Linear(8, 8)})
    assert Transfer(named, networks()[1], "classifier", TO, rank=4)._engine.key[1] == "classifier"


# --- several -----------------------------------------------------------------------------------------------------


def both_ways(turn: int) -> tuple[nn.Module, nn.Module, Transfers]:
    source, target = networks()
    back = {"optimizer": {"adamw": {"lr": 0.1}}}
    there, return_ = make(source, target, (FROM, TO), **back), make(target, source, (TO, FROM), turn=turn, **back)
    return source, target, Transfers([return_, there])


def test_all_of_a_turn_read_before_any_writes() -> None:
    """Only in a later turn does one see what another has written."""
    for turn, sees in ((0, False), (1, True)):
        source, target, transfers = both_ways(turn)
        Loop(source, target).run(transfers, 4)
        before = source[2].weight.clone(), target[0].weight.clone()
        transfers.begin()
        assert not torch.equal(source[2].weight, before[0]) and not torch.equal(target[0].weight, before[1])
        back, there = (transfer._engine.pending for transfer in transfers.transfers)
        assert there is not None and torch.equal(there.source, before[0])
        assert back is not None and torch.equal(back.source, target[0].weight if sees else before[1])


def test_several_resume_and_abandon_as_one() -> None:
    whole, cut = both_ways(0), both_ways(0)
    Loop(*whole[:2]).run(whole[2], 8)
    loop = Loop(*cut[:2])
    loop.run(cut[2], 5)
    with pytest.raises(MemoryError), cut[2]:
        raise MemoryError
    after = both_ways(0)
    after[2].load_state_dict(saved(cut[2].state_dict()))
    again = Loop(*after[:2])
    again.load(loop.state())
    again.run(after[2], 3)
    assert torch.equal(vector(*whole[:2]), vector(*after[:2]))


def test_two_into_one_weight_are_refused() -> None:
    source, target = networks()
    other, _ = networks(1)
    assert refusal(lambda: Transfers([make(source, target), make(other, target, (FROM, "0.weight"))])) == (
        "transfers: Transfer(2 (5, 12) -> 0.weight (8, 6), cycle 2: 0 ticks, 0 updates) writes where "
        "Transfer(2 (5, 12) -> 0 (8, 6), cycle 2: 0 ticks, 0 updates) does; leave one out"
    )
    assert refusal(lambda: Transfers([])) == "transfers: there is none"


# --- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["step", "cycle"])
def test_autocast_and_no_grad_around_the_tick_do_not_reach_the_adapter(span: str) -> None:
    def autocast() -> torch.autocast:
        return torch.autocast(**BF16)

    inside, outside, by_hand = networks(), networks(), networks()
    Loop(*inside, around=autocast).run(make(*inside, span=span), 8)
    Loop(*outside).run(make(*outside, span=span), 8, around=autocast)
    assert torch.equal(vector(*inside), vector(*outside))
    transfer, loop = make(*by_hand, span=span), Loop(*by_hand, around=autocast)
    for _ in range(8):
        with torch.no_grad():
            transfer.begin()
        loop.step()
        with torch.no_grad():
            transfer.end()
    assert torch.equal(vector(*inside), vector(*by_hand))


def test_a_forward_pass_before_the_tick_leaves_no_cast_of_the_old_weight() -> None:
    """Autocast keeps casts until it is left."""
    ends = []
    for around_all in (True, False):
        models = networks()
        transfer = make(*models, optimizer={"adamw": {"lr": 0.1}})
        loop = Loop(*models).run(transfer, 4)
        with torch.autocast(**BF16):
            loop.loss(models[1])
            if around_all:
                transfer.begin()
                ends.append(loop.loss(models[1]).item())
        if not around_all:
            transfer.begin()
            with torch.autocast(**BF16):
                ends.append(loop.loss(models[1]).item())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("span", ["step", "cycle"])
def test_weights_of_half_precision_are_computed_in_fp32_and_rounding_is_no_movement(
    kind: torch.dtype, span: str
) -> None:
    source, target = (model.to(kind) for model in networks())
    transfer, loop = make(source, target, span=span, bias=True, optimizer={"adamw": {"lr": 0.05}}), Loop(target)
    loop.run(transfer, 6)
    assert transfer.updates == 2 and target[0].weight.dtype == kind and vector(target).isfinite().all()
    assert all(parameter.dtype == torch.float32 for parameter in transfer.adapter.parameters())
    written = transfer.figures["written"]
    assert written > 1e-3
    for _ in range(4):  # nobody trains
        with transfer:
            pass
    assert transfer.updates == 2


def test_a_first_write_leaves_a_weight_of_half_precision_as_it_was() -> None:
    source, target = (model.bfloat16() for model in networks())
    transfer = make(source, target)
    Loop(target).run(transfer, 2)
    before = target[0].weight.clone()
    transfer.begin()
    assert torch.equal(target[0].weight, before) and transfer._engine.pending is not None


@pytest.mark.parametrize("update", ["delta", "loss"])
def test_a_step_that_a_gradient_scaler_skips_teaches_the_adapter_nothing(update: str) -> None:
    models = networks()
    transfer, loop = make(*models, update=update), Loop(*models)
    loop.run(transfer, 4)
    adapter, updates = vector(transfer.adapter), transfer.updates
    scaler = torch.amp.GradScaler("cpu")
    with transfer:
        for model, optimizer in zip(models, loop.optimizers, strict=True):
            optimizer.zero_grad()
            scaler.scale(loop.loss(model) * 1e38).backward()
            scaler.step(optimizer)
        scaler.update()
    assert transfer.ticks == 5 and transfer.updates == updates and torch.equal(vector(transfer.adapter), adapter)
    loop.run(transfer, 2)
    assert transfer.updates == updates + 1 and vector(transfer.adapter).isfinite().all()


# --- wrapped -----------------------------------------------------------------------------------------------------


def test_a_compiled_model_is_the_model_and_sees_what_is_written() -> None:
    bare, whole, part = networks(), networks(), networks()
    compiled = tuple(torch.compile(model, backend="eager") for model in whole)
    part[1][0].compile(backend="eager")
    part[1][2] = torch.compile(part[1][2], backend="eager")  # type: ignore[index,operator]
    ends = ("2.weight", "2.weight")
    for models in (bare, compiled, part):
        Loop(*models).run(make(*models, ends=ends, rank=2), 6)
    assert torch.equal(vector(*bare), vector(*whole)) and torch.equal(vector(*bare), vector(*part))


def test_tied_weights_go_by_either_name_and_are_one() -> None:
    source, _ = networks()
    tied = nn.ModuleDict({"embedding": nn.Embedding(9, 8), "head": nn.Linear(8, 9)})
    tied["head"].weight = tied["embedding"].weight  # type: ignore[union-attr]
    writers = [make(source, tied, (FROM, name)) for name in ("embedding", "head")]
    assert "writes where" in refusal(lambda: Transfers(writers))
    assert "is what it reads" in refusal(lambda: make(tied, tied, ("embedding", "head")))


@NEEDS_GPU
def test_it_follows_the_target_to_another_device_in_mid_cycle() -> None:
    models = networks()
    transfer, loop = make(*models, span="cycle", cycle=4), Loop(*models)
    loop.run(transfer, 6)
    models[1].cuda()  # the source stays where it is
    for _ in range(6):
        with transfer, torch.no_grad():
            models[1].get_parameter("0.weight").mul_(0.99)
    assert transfer.updates == 2 and all(parameter.is_cuda for parameter in transfer.adapter.parameters())
    assert vector(models[1]).isfinite().all()

"""The adapter: attention of the target's rows and columns to the source's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mergenet.config import InputError, identity, parse
from mergenet.method.adapter import COMBINATIONS, Attention, Combination, Lpka, LpkaAdapter, Mlp

X, Y = (5, 7), (6, 9)


def build(x: tuple[int, int] = X, y: tuple[int, int] = Y, **options: object) -> LpkaAdapter:
    torch.manual_seed(0)
    adapter = parse(Lpka, {"width": 8, "heads": 2, **options}).build(x, y)
    assert isinstance(adapter, LpkaAdapter)
    return adapter


def draw(x: tuple[int, int] = X, y: tuple[int, int] = Y) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(x), torch.randn(y)


def disturb(adapter: LpkaAdapter) -> LpkaAdapter:
    """Moves every parameter, so that no zero of the start hides a term."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    depth=st.integers(1, 3),
    form=st.sampled_from(["gated", "paper"]),
    mix=st.sampled_from(["learned", "average"]),
    combinations=st.sets(st.sampled_from(COMBINATIONS), min_size=1),
)
def test_any_two_matrices_meet(
    sizes: tuple[int, ...], depth: int, form: str, mix: str, combinations: set[Combination]
) -> None:
    x, y = (sizes[0], sizes[1]), (sizes[2], sizes[3])
    adapter = disturb(build(x, y, depth=depth, form=form, mix=mix, combinations=sorted(combinations)))
    generated = adapter(*draw(x, y))
    assert tuple(generated.shape) == x
    assert generated.isfinite().all()


def test_gated_starts_as_the_identity_bit_for_bit() -> None:
    for depth in (1, 3):
        x, y = draw()
        assert torch.equal(build(depth=depth)(x, y), x)


@pytest.mark.parametrize("mix", ["learned", "average"])
def test_every_branch_of_gated_gets_a_gradient_at_its_start(mix: str) -> None:
    """With two zero factors in a branch no gradient would ever reach it."""
    adapter = build(depth=2, mix=mix)
    x, y = draw()
    adapter(x, y).backward(torch.randn(X))
    for layer in adapter.layers:
        assert layer.gate.grad is not None and layer.gate.grad.abs().min() > 0
        assert layer.feed[-1].weight.grad.abs().max() > 0


def test_gated_changes_in_units_of_the_targets_own_rms() -> None:
    adapter = disturb(build(depth=1))
    x, y = draw()
    change = adapter(x, y) - x
    torch.testing.assert_close(adapter(1e-3 * x, y) - 1e-3 * x, 1e-3 * change, rtol=1e-3, atol=1e-6)


def test_paper_gives_rows_of_unit_variance_whatever_came_in() -> None:
    x, y = draw()
    generated = build(form="paper")(0.02 * x, y)
    torch.testing.assert_close(generated.mean(1), torch.zeros(X[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(generated.var(1, unbiased=False), torch.ones(X[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["gated", "paper"])
@pytest.mark.parametrize(("combination", "axis"), [("row-row", 0), ("column-row", 0), ("row-column", 1)])
def test_permuting_the_sources_tokens_changes_nothing(form: str, combination: str, axis: int) -> None:
    x, y = draw()
    permuted = y[torch.randperm(Y[0])] if axis == 0 else y[:, torch.randperm(Y[1])]
    other_axis = y[:, torch.randperm(Y[1])] if axis == 0 else y[torch.randperm(Y[0])]
    adapter = disturb(build(form=form, combinations=[combination])).eval()
    torch.testing.assert_close(adapter(x, permuted), adapter(x, y), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapter(x, other_axis), adapter(x, y), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["gated", "paper"])
@pytest.mark.parametrize("size", [X, (6, 6)])
def test_columns_of_the_target_are_rows_of_its_transpose(form: str, size: tuple[int, int]) -> None:
    """Attention of columns is attention of rows on the transposed matrix, transposed back."""
    x, y = draw(size)
    rows = disturb(build((size[1], size[0]), Y, form=form, depth=1, combinations=["row-row"])).layers[0]
    columns = build(size, Y, form=form, depth=1, combinations=["column-row"]).layers[0]
    columns.attend.load_state_dict(rows.attend.state_dict())
    by_rows = rows.attend(x.T.contiguous(), y, before=torch.nn.Identity())[0]
    by_columns = columns.attend(x, y, before=torch.nn.Identity())[0]
    torch.testing.assert_close(by_columns, by_rows.T)


def test_attention_equals_softmax_attention_written_out() -> None:
    torch.manual_seed(0)
    attention = Attention((5, 7), (6, 9), Lpka(width=8, heads=2))
    queries, keys = torch.randn(5, 7), torch.randn(6, 9)
    q, k, v = attention.query(queries), attention.key(keys), attention.value(keys)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[:, head] @ k[:, head].T / 4**0.5, dim=1)
        heads.append(weights @ v[:, head])
    torch.testing.assert_close(attention(queries, keys), attention.out(torch.cat(heads, dim=1)))


def test_attention_through_points_equals_two_softmax_attentions_written_out() -> None:
    """The points gather from the keys, then the queries from the points; both see the points as they are."""
    torch.manual_seed(0)
    attention = Attention((50, 7), (60, 9), Lpka(width=8, heads=2, points=3))
    queries, keys = torch.randn(50, 7), torch.randn(60, 9)
    assert attention.points is not None and tuple(attention.points.shape) == (3, 8)
    q, k, v, p = attention.query(queries), attention.key(keys), attention.value(keys), attention.points
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        gathered = torch.softmax(p[:, head] @ k[:, head].T / 4**0.5, dim=1) @ v[:, head]
        heads.append(torch.softmax(q[:, head] @ p[:, head].T / 4**0.5, dim=1) @ gathered)
    torch.testing.assert_close(attention(queries, keys), attention.out(torch.cat(heads, dim=1)))
    shuffled = keys[torch.randperm(60)]
    torch.testing.assert_close(attention(queries, shuffled), attention(queries, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "queries", "keys", "points"),
    [
        ({"points": 8}, 16, 17, 8),  # 8 * (16 + 17) = 264 scores in place of 272
        ({"points": 8}, 16, 16, 0),  # 256 either way
        ({"points": 8}, 8, 4096, 0),  # eight queries are no more than eight points
        ({"points": 0}, 4096, 4096, 0),
        ({"form": "paper"}, 4096, 4096, 0),
        ({}, 960, 2048, 128),
        ({}, 160, 100, 0),
    ],
)
def test_tokens_attend_through_points_where_that_is_less(
    options: dict[str, object], queries: int, keys: int, points: int
) -> None:
    assert parse(Lpka, options).inducing_points(queries, keys) == points


def test_every_parameter_of_a_layer_with_points_learns_once_the_gates_are_open() -> None:
    adapter = disturb(build((5, 60), (6, 70), points=4, depth=1))
    x, y = draw((5, 60), (6, 70))
    adapter(x, y).backward(torch.randn(5, 60))
    points = [name for name, _ in adapter.named_parameters() if name.endswith("points")]
    assert points == [f"layers.0.attend.attentions.{index}.points" for index in (1, 2, 3)], "all but row-row"
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_points_count_from_none_on() -> None:
    """Results from before there were points were made without any, and keep their hash as that."""
    assert "points" not in identity(Lpka(points=0))
    assert identity(Lpka())["points"] == 128


@pytest.mark.parametrize("options", [{}, {"points": 4}, {"form": "paper"}])
def test_attention_drops_while_it_learns_and_never_else(options: dict[str, object]) -> None:
    attention = Attention((50, 7), (60, 9), parse(Lpka, {"width": 8, "heads": 2, "dropout": 0.5, **options}))
    queries, keys = draw((50, 7), (60, 9))
    assert not torch.equal(attention(queries, keys), attention(queries, keys))
    attention.eval()
    assert torch.equal(attention(queries, keys), attention(queries, keys))


def test_average_mix_has_one_weight_and_learned_one_a_combination() -> None:
    paper = build(form="paper", mix="average").layers[0].mix
    assert not paper.requires_grad and torch.equal(paper.softmax(0), torch.full((4,), 0.25))
    assert build(form="paper", mix="learned").layers[0].mix.requires_grad
    assert build(mix="average").layers[0].gate.shape == (1,)
    assert build(mix="learned").layers[0].gate.shape == (4,)


def test_width_bounds_the_parameters() -> None:
    def count(width: int) -> int:
        return sum(p.numel() for p in build((160, 960), (100, 2048), width=width).parameters())

    assert count(16) < count(64) / 3.5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"width": 10, "heads": 4}, "width 10 does not divide by heads 4"),
        ({"combinations": ["row-row", "row-row"]}, "combinations: one stands there twice"),
        ({"combinations": []}, "combinations"),
        ({"width": "many"}, "width"),
        ({"form": "paper", "points": 64}, "points: the paper's form scores every pair of tokens; leave it out"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        parse(Lpka, options)


# --- what the paper leaves open ----------------------------------------------------------------------------------


def test_the_authors_rule_of_width_gives_their_pair_as_many_parameters_as_theirs() -> None:
    """Their fc.weight of ResNet50 into a projection of MobileNetV2, two layers: 37.6 million."""
    with torch.device("meta"):
        adapter = parse(Lpka, {"form": "paper", "width": "tokens", "heads": 8, "depth": 2}).build(
            (160, 960), (100, 2048)
        )
    assert round(sum(parameter.numel() for parameter in adapter.parameters()) / 1e6, 1) == 37.6


@pytest.mark.parametrize(
    ("sizes", "heads", "width"), [((960, 2048), 8, 1504), ((160, 100), 8, 130 - 2), ((10, 20), 4, 128)]
)
def test_the_authors_rule_is_the_mean_of_the_token_sizes_and_at_least_128(
    sizes: tuple[int, int], heads: int, width: int
) -> None:
    assert Lpka(width="tokens", heads=heads).width_between(*sizes) == width
    assert Lpka(width="tokens", heads=heads).hidden_units(960) == 1920


def test_free_mixing_begins_as_the_average_and_is_held_by_no_softmax() -> None:
    free, average = (disturb_but_mix(build(form="paper", mix=mix)) for mix in ("free", "average"))
    x, y = draw()
    torch.testing.assert_close(free(x, y), average(x, y))
    layer = free.layers[0]
    parts = layer.attend(x, y, before=torch.nn.Identity(), after=list(layer.norms))
    with torch.no_grad():
        layer.mix.copy_(torch.tensor([2.0, 0.0, -1.0, 0.5]))
    mixed = 2.0 * parts[0] - parts[2] + 0.5 * parts[3]
    torch.testing.assert_close(layer(x, y, torch.tensor(1.0)), layer.norm(mixed + layer.feed(mixed)))


def disturb_but_mix(adapter: LpkaAdapter) -> LpkaAdapter:
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if not name.endswith("mix"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter.eval()


@pytest.mark.parametrize("form", ["gated", "paper"])
def test_layers_that_carry_both_change_the_source_from_what_the_target_was(form: str) -> None:
    adapter = disturb(build(form=form, depth=2, carries="both")).eval()
    x, y = draw()
    (one, two), (back,) = adapter.layers, adapter.source_layers
    x_rms, y_rms = x.square().mean().sqrt(), y.square().mean().sqrt()
    expected = two(one(x, y, x_rms), back(y, x, y_rms), x_rms)
    assert torch.equal(adapter(x, y), expected)
    assert len(build(depth=3, carries="both").source_layers) == 2
    assert len(build(depth=3).source_layers) == 0


@pytest.mark.parametrize("form", ["gated", "paper"])
def test_without_a_feed_forward_block_a_layer_is_its_attention(form: str) -> None:
    adapter = disturb(build(form=form, depth=1, feed_forward=False)).eval()
    x, y = draw()
    layer, rms = adapter.layers[0], x.square().mean().sqrt()
    assert not any("feed" in name or name.startswith("norm.") for name, _ in layer.named_parameters())
    if form == "gated":
        parts = layer.attend(x, y, before=layer.tokens)
        expected = x + rms * sum(gate * part / 4 for gate, part in zip(layer.gate, parts, strict=True))
    else:
        parts = layer.attend(x, y, before=torch.nn.Identity(), after=list(layer.norms))
        expected = sum(weight * part for weight, part in zip(layer.mix.softmax(0), parts, strict=True))
    torch.testing.assert_close(adapter(x, y), expected)


def test_spectral_norm_bounds_the_feed_forward_block_and_goes_when_told() -> None:
    bounded, free = (build(form="paper", depth=1, spectral_norm=on).layers[0].feed for on in (True, False))
    assert not any("parametrizations" in name for name, _ in free.named_parameters())
    for linear in (bounded[0], bounded[2]):
        with torch.no_grad():
            linear.parametrizations.weight.original.mul_(100.0)
        for _ in range(50):
            weight = linear.weight
        assert torch.linalg.svdvals(weight.detach())[0] == pytest.approx(1.0, rel=1e-2)


def test_without_its_norms_the_papers_form_keeps_the_scale_of_the_residual() -> None:
    x, y = draw()
    adapter = build(form="paper", depth=1, output_norm=False).eval()
    layer = adapter.layers[0]
    parts = torch.stack([x + part for part in layer.attend(x, y, before=torch.nn.Identity())])
    mixed = parts.mean(0)
    torch.testing.assert_close(adapter(x, y), mixed + layer.feed(mixed))
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in adapter.modules())


# --- the baseline ------------------------------------------------------------------------------------------------


def test_mlp_is_two_perceptrons_written_out() -> None:
    torch.manual_seed(0)
    adapter = Mlp(hidden=4).build(X, Y)
    x, y = draw()
    rows, columns = adapter.along_rows, adapter.along_columns
    first = functional.leaky_relu(y @ rows[0].weight.T + rows[0].bias, 0.1) @ rows[2].weight.T + rows[2].bias
    second = functional.leaky_relu(columns[0].weight @ first + columns[0].bias[:, None], 0.1)
    torch.testing.assert_close(adapter(x, y), columns[2].weight @ second + columns[2].bias[:, None])


def test_mlp_overwrites_whatever_the_target_was() -> None:
    adapter = Mlp(hidden=4).build(X, Y)
    x, y = draw()
    assert torch.equal(adapter(x, y), adapter(torch.zeros(X), y))
    assert tuple(adapter(x, y).shape) == X

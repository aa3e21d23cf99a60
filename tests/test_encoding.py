"""Encodings: what of a weight takes part, and how a change of it becomes a change of the weight."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergenet.config import InputError
from mergenet.method import encoding
from mergenet.method.encoding import Encoder, Svd, Whole

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1)]


def encoder_for(weight: torch.Tensor, options: Whole | Svd) -> Encoder:
    encoder = options.build((weight.shape[0], weight.shape[1]))
    encoder.refresh(weight)
    return encoder


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), data=st.data())
def test_decode_of_encode_is_the_weight_bit_for_bit_at_any_rank(rows: int, columns: int, data: st.DataObject) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 100 + columns))
    rank = data.draw(st.integers(1, min(rows, columns)))
    for options in (Whole(), Svd(rank=rank)):
        encoder = encoder_for(weight, options)
        encoded = encoder.encode(weight)
        assert tuple(encoded.shape) == encoder.shape()
        assert torch.equal(encoder.decode(weight, encoded), weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_full_rank_any_matrix_can_be_written(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, wanted = torch.randn(shape), torch.randn(shape)
    for options in (Whole(), Svd(rank=min(shape))):
        encoder = encoder_for(weight, options)
        torch.testing.assert_close(encoder.decode(weight, encoder.encode(wanted)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_write_changes_only_the_encoded_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    encoder = encoder_for(weight, Svd(rank=2))
    change = encoder.decode(weight, encoder.encode(weight) + 1.0) - weight
    assert torch.linalg.matrix_rank(change) <= 2
    left, _, right = torch.linalg.svd(weight)
    rest = left[:, 2:].T @ change if shape[0] <= shape[1] else change @ right[2:].T
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_the_first_basis_holds_the_leading_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    encoded = encoder_for(weight, Svd(rank=3)).encode(weight)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(encoded), values[:3])


@pytest.mark.parametrize("shape", [(30, 40), (40, 30)])
def test_a_large_weights_first_basis_is_near_its_leading_directions(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthonormal, the same every time, and all but as good as the best of its rank."""
    monkeypatch.setattr(encoding, "EXACT_UP_TO", 20)
    torch.manual_seed(0)
    weight = torch.randn(shape)
    encoder = encoder_for(weight, Svd(rank=5))
    torch.manual_seed(1)
    again = encoder_for(weight, Svd(rank=5))
    basis = encoder.state_dict()["basis"]
    assert torch.equal(basis, again.state_dict()["basis"])
    torch.testing.assert_close(basis.T @ basis, torch.eye(5), rtol=1e-5, atol=1e-5)
    best, found = torch.linalg.svdvals(weight)[:5], torch.linalg.svdvals(encoder.encode(weight))
    assert (found <= best * 1.0001).all()
    assert found.square().sum() > 0.97 * best.square().sum()
    steep = weight @ torch.diag(0.5 ** torch.arange(shape[1]).float())
    found = torch.linalg.svdvals(encoder_for(steep, Svd(rank=5)).encode(steep))
    torch.testing.assert_close(found, torch.linalg.svdvals(steep)[:5], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "rank", "exact"),
    [
        ((20, 400), 5, True),  # a shorter side up to the threshold is decomposed as it is
        ((400, 20), 5, True),
        ((21, 400), 5, False),
        ((400, 21), 5, False),
        ((30, 40), 22, True),  # with the few more directions these are all that there are
        ((30, 40), 10, False),
    ],
)
def test_only_what_is_large_on_both_sides_and_of_more_directions_is_sketched(
    shape: tuple[int, int], rank: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spectrum of noise is flat, so a sketch of it misses something."""
    monkeypatch.setattr(encoding, "EXACT_UP_TO", 20)
    torch.manual_seed(0)
    weight = torch.randn(shape)
    best = torch.linalg.svdvals(weight)[:rank]
    found = torch.linalg.svdvals(encoder_for(weight, Svd(rank=rank)).encode(weight))
    assert torch.allclose(found, best, rtol=2e-5) is exact


def test_the_basis_follows_a_drifting_weight_without_flipping_signs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 20)
    encoder = encoder_for(weight, Svd(rank=3))
    before = encoder.state_dict()["basis"]
    for _ in range(20):
        weight = weight + 0.01 * torch.randn_like(weight)
        encoder.refresh(weight)
        after = encoder.state_dict()["basis"]
        torch.testing.assert_close(after.T @ after, torch.eye(3), rtol=1e-5, atol=1e-5)
        assert (before * after).sum(0).min() > 0.9
        before = after


def test_enough_iterations_find_the_leading_directions_of_another_weight() -> None:
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(8, 8))[0], torch.linalg.qr(torch.randn(20, 8))[0]
    other = left @ torch.diag(torch.tensor([9.0, 8.0, 7.0, 1.0, 0.5, 0.3, 0.2, 0.1])) @ right.T
    encoder = encoder_for(torch.randn(8, 20), Svd(rank=3, iterations=20))
    encoder.refresh(other)
    torch.testing.assert_close(torch.linalg.svdvals(encoder.encode(other)), torch.tensor([9.0, 8.0, 7.0]))


def test_no_iterations_keep_the_first_basis() -> None:
    encoder = encoder_for(torch.randn(8, 20), Svd(rank=3, iterations=0))
    before = encoder.state_dict()["basis"]
    encoder.refresh(torch.randn(8, 20))
    assert torch.equal(encoder.state_dict()["basis"], before)


def test_a_rank_above_the_matrix_is_refused() -> None:
    with pytest.raises(InputError, match=r"rank 9 is above 5, the most a 5 x 12 matrix has"):
        Svd(rank=9).build((5, 12))


def test_its_state_restores_an_encoder() -> None:
    weight = torch.randn(6, 10)
    one, other = encoder_for(weight, Svd(rank=2)), Svd(rank=2).build((6, 10))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.encode(weight), other.encode(weight))


# --- which factor is attended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize(
    ("attends", "of"),
    [
        ("A", lambda m, n: (2, n)),
        ("B", lambda m, n: (m, 2)),
        ("longer", lambda m, n: (2, n) if m <= n else (m, 2)),
        ("both", lambda m, n: (m + n, 2)),
    ],
)
def test_the_factor_that_is_attended_decides_the_shape(
    attends: str, of: Callable[[int, int], tuple[int, int]], shape: tuple[int, int]
) -> None:
    weight = torch.randn(shape)
    encoder = encoder_for(weight, Svd.model_validate({"rank": 2, "attends": attends}))
    assert encoder.shape() == tuple(encoder.encode(weight).shape) == of(*shape)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_and_b_hold_the_leading_directions_from_either_side(shape: tuple[int, int]) -> None:
    """W = B A in the best approximation of its rank: A = U'W = S V' from one side, B = W V = U S from the other."""
    weight = torch.randn(shape)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    a = encoder_for(weight, Svd(rank=2, attends="A")).encode(weight)
    b = encoder_for(weight, Svd(rank=2, attends="B")).encode(weight)
    torch.testing.assert_close(a.T @ a, right[:2].T @ torch.diag(values[:2] ** 2) @ right[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b @ b.T, left[:, :2] @ torch.diag(values[:2] ** 2) @ left[:, :2].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_write_of_both_factors_replaces_their_product_and_keeps_the_rest(shape: tuple[int, int]) -> None:
    weight, rows = torch.randn(shape), shape[0]
    encoder = encoder_for(weight, Svd(rank=2, attends="both"))
    encoded = encoder.encode(weight)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = (left[:, :2] * values[:2]) @ right[:2]
    torch.testing.assert_close(encoded[:rows] @ encoded[rows:].T, best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded[:rows].norm(), encoded[rows:].norm())
    changed = encoded + torch.randn_like(encoded)
    expected = weight - best + changed[:rows] @ changed[rows:].T
    torch.testing.assert_close(encoder.decode(weight, changed), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder.decode(weight, encoded), weight)


def test_a_weight_of_zeros_can_be_encoded_in_both_factors() -> None:
    weight = torch.zeros(4, 6)
    encoder = encoder_for(weight, Svd(rank=2, attends="both"))
    assert torch.isfinite(encoder.encode(weight)).all()
    assert torch.equal(encoder.decode(weight, encoder.encode(weight)), weight)

"""What of a weight takes part: the whole matrix, or a low-rank factor of it.

An encoder looks at a matrix W (m x n), gives the encoded matrix A that the adapter works on, and turns
a changed A' back into a weight. It is differentiable in A', so a movement of the weight can be pulled
back to the adapter. Eq. 4 and 5 of the paper; how a dense weight gets its factors is left open there.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from typing_extensions import override

from mergenet import randomness
from mergenet.config import Choice, InputError, Neutral, Options
from mergenet.method.layout import Dense, Factor, Factors, Flattening, Layout
from mergenet.method.matching import SMALLEST

EXACT_UP_TO = 1024
OVERSAMPLING, POWER_ITERATIONS = 8, 4


class Encoder(ABC):
    """Encodes the matrices of one port; `refresh` may adapt it to the matrix at hand."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the encoded matrix."""

    @abstractmethod
    def refresh(self, weight: Tensor) -> None:
        """Adapts the encoder to `weight` (m, n); it then stays fixed until the next refresh."""

    @abstractmethod
    def encode(self, weight: Tensor) -> Tensor:
        """The encoded matrix of `weight` (m, n)."""

    @abstractmethod
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        """`weight` (m, n) moved to where its encoding is `encoded`; what is not encoded is kept."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""


class WholeEncoder(Encoder):
    """A = W."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape

    @override
    def shape(self) -> tuple[int, int]:
        return self._shape

    @override
    def refresh(self, weight: Tensor) -> None:
        return

    @override
    def encode(self, weight: Tensor) -> Tensor:
        return weight

    @override
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return encoded

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        return


class SvdEncoder(Encoder):
    """A = B'W or, across columns, A = W B, where B is an orthonormal basis of the rows' space or of the columns'.

    The first basis holds the leading singular vectors (of a large weight a near match). Later ones follow
    the weight by subspace iteration from the last basis, with the signs of a positive diagonal: a fresh SVD
    flips signs and turns the basis between calls, so the adapter would see a jump where the weight made none.
    """

    def __init__(self, shape: tuple[int, int], rank: int, iterations: int, across_columns: bool) -> None:
        self._weight_shape = shape
        self._rank = rank
        self._iterations = iterations
        self._across_columns = across_columns
        self._basis: Tensor | None = None

    @override
    def shape(self) -> tuple[int, int]:
        rows, columns = self._weight_shape
        return (rows, self._rank) if self._across_columns else (self._rank, columns)

    @override
    def refresh(self, weight: Tensor) -> None:
        upright = weight.T if self._across_columns else weight
        if self._basis is None:
            self._basis = _leading_directions(upright, self._rank)
            return
        for _ in range(self._iterations):
            self._basis = _orthonormal(upright @ (upright.T @ self._basis))

    @override
    def encode(self, weight: Tensor) -> Tensor:
        basis = self._known_basis()
        return weight @ basis if self._across_columns else basis.T @ weight

    @override
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        basis = self._known_basis()
        change = encoded - self.encode(weight)
        return weight + (change @ basis.T if self._across_columns else basis @ change)

    def _known_basis(self) -> Tensor:
        assert self._basis is not None, "refresh comes before encode and decode"
        return self._basis

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._basis is None else {"basis": self._basis}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._basis = state.get("basis")


class SvdFactorsEncoder(SvdEncoder):
    """Both factors of W ~ B A in one matrix, B above A', scaled so that their norms are equal.

    A write is W + (B_new A_new - B A): what the rank leaves out is kept here too.
    """

    @override
    def shape(self) -> tuple[int, int]:
        return sum(self._weight_shape), self._rank

    @override
    def encode(self, weight: Tensor) -> Tensor:
        basis, coordinates = self._known_basis(), super().encode(weight)
        left, right = (coordinates, basis) if self._across_columns else (basis, coordinates.T)
        balance = (right.norm() / left.norm().clamp_min(SMALLEST)).clamp_min(SMALLEST).sqrt()
        return torch.cat([left * balance, right / balance])

    @override
    def decode(self, weight: Tensor, encoded: Tensor) -> Tensor:
        return weight + (self._product(encoded) - self._product(self.encode(weight)))

    def _product(self, encoded: Tensor) -> Tensor:
        rows = self._weight_shape[0]
        return encoded[:rows] @ encoded[rows:].T


def _leading_directions(weight: Tensor, rank: int) -> Tensor:
    """Left singular vectors (m, rank) of the `rank` largest singular values of `weight` (m, n).

    Above `EXACT_UP_TO` an exact decomposition, whose cost grows with the cube of the shorter side, would take minutes;
    there they are found in a sketch of a few more directions (Halko, Martinsson and Tropp 2011, Algorithm 4.4).
    """
    rows, columns = weight.shape
    if min(rows, columns) <= EXACT_UP_TO:
        left, _, _ = torch.linalg.svd(weight, full_matrices=False)
        return left[:, :rank].contiguous()
    sketched = min(rank + OVERSAMPLING, rows)
    draw = torch.randn(columns, sketched, generator=randomness.generator("sketch", rows, columns, sketched))
    span = _orthonormal(weight @ draw.to(weight))
    for _ in range(POWER_ITERATIONS):
        span = _orthonormal(weight @ (weight.T @ span))
    left, _, _ = torch.linalg.svd(span.T @ weight, full_matrices=False)
    return span @ left[:, :rank]


def _orthonormal(columns: Tensor) -> Tensor:
    """The Q of a QR decomposition whose R has a positive diagonal."""
    q, r = torch.linalg.qr(columns)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)


class Whole(Options):
    """The weight itself takes part."""

    def layout(self, flattening: Flattening, bias: bool) -> Layout:
        """What the layer's tensors are to this encoding."""
        return Dense(flattening, bias)

    def build(self, shape: tuple[int, int]) -> Encoder:
        """An encoder for matrices of `shape`."""
        return WholeEncoder(shape)


class Svd(Options):
    """The leading `rank` directions of the weight's shorter side take part; the rest is kept.

    Attributes:
        rank: the authors' code hints at 4; the paper does not say.
        iterations: of subspace iteration, which follow the weight from one transfer to the next.
        attends: which factor of W ~ B A the adapter works on: `A` (rank, n), as the paper; `B` (m, rank); the one along
            the `longer` side; or `both`.
    """

    rank: PositiveInt = 8
    iterations: NonNegativeInt = 1
    attends: Annotated[Literal["longer", "A", "B", "both"], Neutral("longer")] = "longer"

    def layout(self, flattening: Flattening, bias: bool) -> Layout:
        """What the layer's tensors are to this encoding."""
        return Dense(flattening, bias)

    def build(self, shape: tuple[int, int]) -> Encoder:
        """An encoder for matrices of `shape`.

        Raises:
            InputError: the rank is above what a matrix of `shape` can have.
        """
        if self.rank > min(shape):
            raise InputError(f"rank {self.rank} is above {min(shape)}, the most a {shape[0]} x {shape[1]} matrix has")
        rows, columns = shape
        encoder = SvdFactorsEncoder if self.attends == "both" else SvdEncoder
        across_columns = self.attends == "B" or (self.attends != "A" and rows > columns)
        return encoder(shape, self.rank, self.iterations, across_columns)


class Factored(Options):
    """A trained factor of a layer that is W = B A takes part, as it is; the layer's learner says `factored`.

    `attends`: `A` (rank, n), which alone the authors' code loads back; `B` (m, rank); or `both`.
    """

    attends: Factor = "A"

    def layout(self, flattening: Flattening, bias: bool) -> Layout:
        """What the layer's tensors are to this encoding.

        Raises:
            ValueError: the weight, which is computed, has nothing to flatten; a bias is no part of a factor.
        """
        if bias or flattening != "outputs":
            raise ValueError("encoding 'factored' reads factors as they are; leave flattening and bias out")
        return Factors(self.attends)

    def build(self, shape: tuple[int, int]) -> Encoder:
        """An encoder for factors of `shape`."""
        return WholeEncoder(shape)


Encoding = Annotated[Whole | Svd | Factored, Choice(whole=Whole, svd=Svd, factored=Factored)]

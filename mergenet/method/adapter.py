"""Adapters: the low-rank parametric knowledge adapter (LPKA), where the target attends to the source, and a baseline.

Shape legend: X (m, n) the target's encoded matrix, Y (p, q) the source's, a and b numbers of tokens.
A matrix is read as a set of tokens twice: its rows, and its columns. No positions: a permutation of the
source's tokens changes nothing.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from mergenet.config import Choice, Listed, Neutral, Options

Combination = Literal["row-row", "row-column", "column-row", "column-column"]
COMBINATIONS: tuple[Combination, ...] = ("row-row", "row-column", "column-row", "column-column")
Size = tuple[int, int]
POINTS = 128  # as many as the width: a summary of no more numbers than a token is seen by
NORM_EPS = 1e-12  # the authors'; weights are small, and a larger one would count beside their variance


def tokens(matrix: Tensor, axis: str) -> Tensor:
    """The rows of `matrix`, or its columns as rows."""
    return matrix if axis == "row" else matrix.T


def _seen_along(size: Size, axis: str) -> Size:
    """How many tokens a matrix of `size` has along `axis`, and how large each is."""
    return size if axis == "row" else (size[1], size[0])


class Attention(nn.Module):
    """Multi-head softmax attention from `tokens` Q (a, query_size) to K (b, key_size): (a, query_size).

    Every pair of tokens is scored, a * b in all; or, where that is less, each is scored against `points` learned
    ones, which gather from K and hand on to Q: softmax(Q P') softmax(P K') V, (a + b) * points in all. Like exact
    attention it does not mind the order of tokens (inducing points: Lee et al. 2019; this form: Han et al. 2023).
    """

    def __init__(self, query: Size, key: Size, options: "Lpka") -> None:
        super().__init__()
        (queries, query_size), (keys, key_size), width = query, key, options.width
        self.heads = options.heads
        self.dropout = options.dropout
        self.query = nn.Linear(query_size, width)
        self.key = nn.Linear(key_size, width)
        self.value = nn.Linear(key_size, width)
        self.out = nn.Linear(width, query_size)
        points = options.inducing_points(queries, keys)
        self.points = nn.Parameter(torch.randn(points, width)) if points else None

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """What each query token (a, query_size) takes from the key tokens (b, key_size)."""
        q, k, v = (self._split(part) for part in (self.query(query), self.key(key), self.value(key)))
        if self.points is not None:
            points = self._split(self.points)
            k, v = points, self._attend(points, k, v)
        return self.out(self._attend(q, k, v).transpose(0, 1).flatten(1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(heads, a, size) from (heads, a, size) and twice (heads, b, size)."""
        dropout = self.dropout if self.training else 0.0
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    def _split(self, projected: Tensor) -> Tensor:
        """(tokens, width) -> (heads, tokens, width / heads)."""
        return projected.unflatten(1, (self.heads, -1)).transpose(0, 1)


class AxialAttention(nn.Module):
    """One `Attention` for each combination of the axes of X (queries) and Y (keys and values), Eq. 6."""

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        self.axes = [tuple(combination.split("-")) for combination in options.combinations]
        self.attentions = nn.ModuleList(
            Attention(_seen_along(x, x_axis), _seen_along(y, y_axis), options) for x_axis, y_axis in self.axes
        )

    def forward(self, x: Tensor, y: Tensor, before: nn.Module, after: list[nn.Module] | None = None) -> Tensor:
        """The attended matrices, stacked: (combinations, m, n).

        `before` prepares tokens; `after`, one a combination, closes a residual block around its attention.
        """
        parts = []
        for index, (x_axis, y_axis) in enumerate(self.axes):
            query = tokens(x, x_axis)
            part = self.attentions[index](before(query), before(tokens(y, y_axis)))
            if after is not None:
                part = after[index](query + part)
            parts.append(tokens(part, x_axis))
        return torch.stack(parts)


class TokenNorm(nn.Module):
    """Each token to mean 0 and variance 1."""

    def forward(self, token: Tensor) -> Tensor:
        """Tokens (a, size) normalised."""
        return functional.layer_norm(token, token.shape[-1:], eps=NORM_EPS)


class PaperLayer(nn.Module):
    """The authors' knowledge transfer layer: post-norm attention, mixed, then a post-norm feed-forward block.

    It ends in LayerNorm, so every generated row has unit variance whatever the weight's own scale was.
    """

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        self.attend = AxialAttention(x, y, options)
        self.norms = nn.ModuleList(
            nn.LayerNorm(_seen_along(x, x_axis)[1], eps=NORM_EPS) for x_axis, _ in self.attend.axes
        )
        self.mix = nn.Parameter(torch.ones(len(self.norms)), requires_grad=options.mix == "learned")
        hidden = 2 * options.width
        self.feed = nn.Sequential(
            spectral_norm(nn.Linear(x[1], hidden)),
            nn.GELU(approximate="tanh"),
            spectral_norm(nn.Linear(hidden, x[1])),
            nn.Dropout(options.dropout),
        )
        self.norm = nn.LayerNorm(x[1], eps=NORM_EPS)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """The next X (m, n) from X (m, n) and Y (p, q); `scale` is the rms of the first X."""
        parts = self.attend(x, y, before=nn.Identity(), after=list(self.norms))
        mixed = torch.einsum("c,cmn->mn", self.mix.softmax(0), parts)
        return self.norm(mixed + self.feed(mixed))


class GatedLayer(nn.Module):
    """Our knowledge transfer layer: X plus a gated change in units of the target's own rms.

    Exactly one factor of each branch starts at zero, `gate` for attention and the last linear for the
    feed-forward branch (with two zeros no gradient would ever reach either). So the layer starts as the
    identity, and the first update moves it.
    """

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        self.attend = AxialAttention(x, y, options)
        self.tokens = TokenNorm()
        self.gate = nn.Parameter(torch.zeros(len(self.attend.axes) if options.mix == "learned" else 1))
        hidden = 2 * options.width
        last = nn.Linear(hidden, x[1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.feed = nn.Sequential(nn.Linear(x[1], hidden), nn.GELU(), nn.Dropout(options.dropout), last)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """The next X (m, n) from X (m, n) and Y (p, q); `scale` is the rms of the first X."""
        parts = self.attend(x, y, before=self.tokens)
        weights = self.gate.expand(len(parts)) / len(parts)
        x = x + scale * torch.einsum("c,cmn->mn", weights, parts)
        return x + scale * self.feed(self.tokens(x))


class LpkaAdapter(nn.Module):
    """`depth` knowledge transfer layers, X_i = KTL_i(X_{i-1}, Y); the source's matrix stays as it is (Eq. 3)."""

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        layer = {"gated": GatedLayer, "paper": PaperLayer}[options.form]
        self.layers = nn.ModuleList(layer(x, y, options) for _ in range(options.depth))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The generated matrix (m, n) for X (m, n) and Y (p, q)."""
        scale = x.square().mean().sqrt()
        for layer in self.layers:
            x = layer(x, y, scale)
        return x


class Lpka(Options):
    """Low-rank parametric knowledge adapter.

    Attributes:
        form: `gated` starts as the identity and changes the weight in units of its own rms; `paper` is
            the authors' post-norm block, whose output replaces the weight's scale by one.
        mix: how the combinations are weighed: `learned`, or `average` (the paper's ablation).
        combinations: which axes of the target attend to which of the source; `row-row` alone is the
            paper's "individual" attention.
        depth: number of knowledge transfer layers (authors' yaml: 2).
        heads: attention heads (authors' yaml: 8).
        width: bounds attention; the feed-forward block has twice as many hidden units. The authors take
            the mean of the token sizes, which grows with the matrices.
        points: inducing points through which many tokens attend to many, so that the cost grows with the sides of
            the matrices and not with their product; 0 scores every pair, as `form: paper` always does.
        dropout: the authors' code has 0.1 in attention and 0.2 after the feed-forward block.
    """

    form: Literal["gated", "paper"] = "gated"
    mix: Literal["learned", "average"] = "learned"
    combinations: Annotated[Listed[Combination], Field(min_length=1)] = COMBINATIONS
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    width: PositiveInt = 128
    points: Annotated[NonNegativeInt, Neutral(0)] = POINTS
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> "Lpka":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        if len(set(self.combinations)) < len(self.combinations):
            raise ValueError("combinations: one stands there twice")
        if self.form == "paper" and self.points not in (0, POINTS):
            raise ValueError("points: the paper's form scores every pair of tokens; leave it out")
        return self

    def inducing_points(self, queries: int, keys: int) -> int:
        """How many points so many tokens attend through; 0 where scoring every pair is less, or is asked for."""
        fewer = self.points * (queries + keys) < queries * keys
        return self.points if self.form == "gated" and fewer else 0

    def build(self, x: Size, y: Size) -> nn.Module:
        """An adapter for a target's matrix of size `x` and a source's of size `y`."""
        return LpkaAdapter(x, y, self)


class MlpAdapter(nn.Module):
    """Two perceptrons in turn, one along the source's rows and one along its columns; the target is overwritten.

    The paper's baseline (Eq. 2): the target's own matrix does not enter.
    """

    def __init__(self, x: Size, y: Size, hidden: int) -> None:
        super().__init__()
        self.along_rows = _perceptron(y[1], hidden, x[1])
        self.along_columns = _perceptron(y[0], hidden, x[0])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The generated matrix (m, n) for Y (p, q): rows to n, then columns to m."""
        return self.along_columns(self.along_rows(y).T).T


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    for linear in (first, last):
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.LeakyReLU(0.1), last)


class Mlp(Options):
    """The paper's baseline adapter; `hidden` units as in the authors' hyper_module.py."""

    hidden: PositiveInt = 1024

    def build(self, x: Size, y: Size) -> nn.Module:
        """An adapter for a target's matrix of size `x` and a source's of size `y`."""
        return MlpAdapter(x, y, self.hidden)


Adapter = Annotated[Lpka | Mlp, Choice(lpka=Lpka, mlp=Mlp)]

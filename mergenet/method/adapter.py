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
LEAST_WIDTH = 128  # of attention by the authors' rule
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
        (queries, query_size), (keys, key_size) = query, key
        width = options.width_between(query_size, key_size)
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

    It ends in LayerNorm, so every generated row has unit variance whatever the weight's own scale was. `output_norm:
    false` takes every LayerNorm out that closes a block, so that the residual branches keep the scale.
    """

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        self.attend = AxialAttention(x, y, options)
        sizes = [_seen_along(x, x_axis)[1] for x_axis, _ in self.attend.axes]
        self.norms = nn.ModuleList(self._closing(size, options) for size in sizes)
        self.free = options.mix == "free"
        start = torch.ones(len(sizes)) / (len(sizes) if self.free else 1)
        self.mix = nn.Parameter(start, requires_grad=options.mix != "average")
        self.feed = self._feed_forward(x[1], options) if options.feed_forward else None
        self.norm = self._closing(x[1], options) if options.feed_forward else nn.Identity()

    @staticmethod
    def _closing(size: int, options: "Lpka") -> nn.Module:
        return nn.LayerNorm(size, eps=NORM_EPS) if options.output_norm else nn.Identity()

    @staticmethod
    def _feed_forward(size: int, options: "Lpka") -> nn.Module:
        bounded = spectral_norm if options.spectral_norm else nn.Identity()
        hidden = options.hidden_units(size)
        return nn.Sequential(
            bounded(nn.Linear(size, hidden)),
            nn.GELU(approximate="tanh"),
            bounded(nn.Linear(hidden, size)),
            nn.Dropout(options.dropout),
        )

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """The next X (m, n) from X (m, n) and Y (p, q); `scale` is the rms of the first X."""
        parts = self.attend(x, y, before=nn.Identity(), after=list(self.norms))
        mixed = torch.einsum("c,cmn->mn", self.mix if self.free else self.mix.softmax(0), parts)
        return mixed if self.feed is None else self.norm(mixed + self.feed(mixed))


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
        self.feed = self._feed_forward(x[1], options) if options.feed_forward else None

    @staticmethod
    def _feed_forward(size: int, options: "Lpka") -> nn.Module:
        hidden = options.hidden_units(size)
        last = nn.Linear(hidden, size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Dropout(options.dropout), last)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """The next X (m, n) from X (m, n) and Y (p, q); `scale` is the rms of the first X."""
        parts = self.attend(x, y, before=self.tokens)
        weights = self.gate.expand(len(parts)) / len(parts)
        x = x + scale * torch.einsum("c,cmn->mn", weights, parts)
        return x if self.feed is None else x + scale * self.feed(self.tokens(x))


class LpkaAdapter(nn.Module):
    """`depth` knowledge transfer layers, X_i = KTL_i(X_{i-1}, Y), the source's matrix as it is (the authors' code).

    With `carries: both` it has layers of its own, Y_i = KTL'_i(Y_{i-1}, X_{i-1}), as Eq. 3 may be read.
    """

    def __init__(self, x: Size, y: Size, options: "Lpka") -> None:
        super().__init__()
        layer = {"gated": GatedLayer, "paper": PaperLayer}[options.form]
        self.layers = nn.ModuleList(layer(x, y, options) for _ in range(options.depth))
        of_source = options.depth - 1 if options.carries == "both" else 0  # after the last, none would read it
        self.source_layers = nn.ModuleList(layer(y, x, options) for _ in range(of_source))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The generated matrix (m, n) for X (m, n) and Y (p, q)."""
        x_scale, y_scale = _rms(x), _rms(y)
        for index, layer in enumerate(self.layers):
            x_before = x
            x = layer(x, y, x_scale)
            if index < len(self.source_layers):
                y = self.source_layers[index](y, x_before, y_scale)
        return x


def _rms(matrix: Tensor) -> Tensor:
    return matrix.square().mean().sqrt()


class Lpka(Options):
    """Low-rank parametric knowledge adapter.

    Attributes:
        form: `gated` starts as the identity and changes the weight in units of its own rms; `paper` is
            the authors' post-norm block, whose output replaces the weight's scale by one.
        mix: how the combinations are weighed: `learned` (in the paper's form by a softmax, as in the authors' code;
            gated by a factor each), `free` (the paper's form with a factor each), or `average` (the paper's ablation).
        combinations: which axes of the target attend to which of the source; `row-row` alone is the
            paper's "individual" attention.
        depth: number of knowledge transfer layers (authors' yaml: 2).
        carries: what the layers hand on changed, the `target`'s matrix, or `both` (Eq. 3 has two on the left).
        feed_forward: whether a feed-forward block follows attention.
        spectral_norm: whether its matrices are divided by their largest singular value, in the paper's form.
        output_norm: whether a LayerNorm closes each block, in the paper's form.
        heads: attention heads (authors' yaml: 8).
        width: of all heads together; the feed-forward block has twice as many hidden units. `tokens` is the authors'
            rule, which grows with the matrices: the mean of the sizes of the two tokens and at least 128 (rounded
            down to the heads), the feed-forward block twice the size of a row.
        points: inducing points through which many tokens attend to many, so that the cost grows with the sides of
            the matrices and not with their product; 0 scores every pair, as `form: paper` always does.
        dropout: the authors' code has 0.1 in attention and 0.2 after the feed-forward block.
    """

    form: Literal["gated", "paper"] = "gated"
    mix: Literal["learned", "free", "average"] = "learned"
    combinations: Annotated[Listed[Combination], Field(min_length=1)] = COMBINATIONS
    depth: PositiveInt = 2
    carries: Annotated[Literal["target", "both"], Neutral("target")] = "target"
    feed_forward: Annotated[bool, Neutral(True)] = True
    spectral_norm: Annotated[bool, Neutral(True)] = True
    output_norm: Annotated[bool, Neutral(True)] = True
    heads: PositiveInt = 4
    width: PositiveInt | Literal["tokens"] = 128
    points: Annotated[NonNegativeInt, Neutral(0)] = POINTS
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> "Lpka":
        if self.width != "tokens" and self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        if self.width == "tokens" and self.heads > LEAST_WIDTH:
            raise ValueError(f"heads {self.heads}: a width of `tokens` may be {LEAST_WIDTH}, which is less")
        if len(set(self.combinations)) < len(self.combinations):
            raise ValueError("combinations: one stands there twice")
        if self.form == "paper" and self.points not in (0, POINTS):
            raise ValueError("points: the paper's form scores every pair of tokens; leave it out")
        if self.form == "gated" and self.mix == "free":
            raise ValueError("mix: the gated form weighs each combination freely when it is 'learned'")
        if self.form == "gated" and not (self.spectral_norm and self.output_norm):
            raise ValueError("spectral_norm, output_norm: the gated form has neither; leave them out")
        if not self.feed_forward and not self.spectral_norm:
            raise ValueError("spectral_norm: is that of the feed-forward block, and there is none; leave it out")
        if self.carries == "both" and self.depth == 1:
            raise ValueError("carries: one layer has nobody to hand the source's matrix to; leave it out or add depth")
        return self

    def width_between(self, query_size: int, key_size: int) -> int:
        """Width of attention from tokens of one size to tokens of another."""
        if self.width != "tokens":
            return self.width
        width = max((query_size + key_size) // 2, LEAST_WIDTH)
        return width - width % self.heads

    def hidden_units(self, size: int) -> int:
        """Of the feed-forward block on tokens of `size`."""
        return 2 * (size if self.width == "tokens" else self.width)

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

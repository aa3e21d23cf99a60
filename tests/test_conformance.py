"""Our own adapters and encodings hold what anyone's must."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from mergenet.config import parse
from mergenet.conformance import AdapterConformance, EncodingConformance
from mergenet.method.adapter import Lpka, Mlp
from mergenet.method.encoding import Factored, Svd, Whole
from mergenet.method.factorization import Product


def lpka(**options: Any) -> Lpka:
    return parse(Lpka, {"width": 8, "heads": 2, **options})


# --- adapters ----------------------------------------------------------------------------------------------------


class TestGated(AdapterConformance):
    options = lpka()
    starts_as_identity = True


class TestGatedAverage(AdapterConformance):
    options = lpka(mix="average", depth=1)
    starts_as_identity = True


class TestGatedWithoutFeedForward(AdapterConformance):
    options = lpka(feed_forward=False)
    starts_as_identity = True


class TestGatedCarryingBoth(AdapterConformance):
    options = lpka(carries="both", depth=3)
    starts_as_identity = True


class TestGatedThroughPoints(AdapterConformance):
    options = lpka(points=2)
    starts_as_identity = True


class TestGatedIndividual(AdapterConformance):
    options = lpka(combinations=["row-row"], depth=1)
    starts_as_identity = True
    ignores_source_order = ("rows",)


class TestGatedAcross(AdapterConformance):
    options = lpka(combinations=["row-column", "column-column"])
    starts_as_identity = True
    ignores_source_order = ("columns",)


class TestGatedWithDropout(AdapterConformance):
    options = lpka(dropout=0.2)
    starts_as_identity = True


class TestGatedAtTheWidthOfTokens(AdapterConformance):
    options = lpka(width="tokens")
    starts_as_identity = True


class TestPaper(AdapterConformance):
    options = lpka(form="paper")


class TestPaperFree(AdapterConformance):
    options = lpka(form="paper", mix="free")


class TestPaperAverage(AdapterConformance):
    options = lpka(form="paper", mix="average", dropout=0.2)


class TestPaperWithoutNorms(AdapterConformance):
    options = lpka(form="paper", spectral_norm=False, output_norm=False)


class TestPaperWithoutFeedForward(AdapterConformance):
    options = lpka(form="paper", feed_forward=False)


class TestPaperCarryingBoth(AdapterConformance):
    options = lpka(form="paper", carries="both", width="tokens")


class TestMlp(AdapterConformance):
    options = Mlp(hidden=16)
    reads_target = False


# --- encodings ---------------------------------------------------------------------------------------------------


class TestWhole(EncodingConformance):
    options = Whole()


class TestSvd(EncodingConformance):
    options = Svd(rank=3)
    refuses = ((2, 9), (9, 2))


class TestSvdOfRows(EncodingConformance):
    options = Svd(rank=3, attends="A")
    refuses = ((2, 9), (9, 2))


class TestSvdOfColumns(EncodingConformance):
    options = Svd(rank=3, attends="B")
    refuses = ((2, 9), (9, 2))


class TestSvdOfBoth(EncodingConformance):
    options = Svd(rank=3, attends="both")
    refuses = ((2, 9), (9, 2))
    projects = False


class TestSvdOfRankOne(EncodingConformance):
    options = Svd(rank=1, iterations=3)


class TestSvdThatStays(EncodingConformance):
    options = Svd(rank=2, iterations=0)


class TestFactored(EncodingConformance):
    options = Factored()

    def layer(self) -> nn.Module:
        layer = super().layer()
        register_parametrization(layer, "weight", Product(layer.weight.shape, 3))
        return layer


class TestFactoredOfColumns(TestFactored):
    options = Factored(attends="B")


class TestFactoredOfBoth(TestFactored):
    options = Factored(attends="both")

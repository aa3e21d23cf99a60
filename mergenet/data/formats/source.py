"""What every format that can be imported offers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mergenet.config import InputError
from mergenet.data.images import Split
from mergenet.data.watch import Watch

TEST_NAMES = ("test", "val", "valid", "validation")
"""What people call the split that a training never sees; the first that is there is taken."""

UNEQUAL = "; --size PIXELS brings all of them to one square"


@dataclass(frozen=True)
class Wishes:
    """What a user may say of a source.

    Attributes:
        size: pixels of the square that all images are brought to.
        label, image: columns of a Parquet file.
    """

    size: int | None = None
    label: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Found:
    """What a source holds; `names` of the classes where it knows them."""

    train: Split
    test: Split
    names: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """One way in which people keep images.

    Attributes:
        looked_for: what of it a source must hold, in words.
        recognise: whether a source holds it.
        read: reads it; raises InputError for whatever is missing or broken.
        takes: the wishes it can follow.
    """

    looked_for: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Wishes, Watch], Found]
    takes: tuple[str, ...] = ()


def no_test_split(source: Path, wanted: str) -> InputError:
    """The error for a source with a training split alone."""
    others = ", ".join(TEST_NAMES[1:-1])
    return InputError(
        f"{source} has no test split: put images that no training is to see into {wanted} "
        f"(or {others} or {TEST_NAMES[-1]} in place of test)"
    )

"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, inside the package, no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy
import torch

from mergenet.config import InputError
from mergenet.data.images import Images, Split, hold_out

NAME = "digits"
FILE = "datasets/data/digits.csv.gz"


def load(path: Path | None) -> Images:
    """The digits with a fifth held out as the test split (they come without one), grey as three channels.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI; sixteen grey levels.
    """
    if path is not None:
        raise InputError(f"data {NAME}: comes with scikit-learn and takes no path")
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None, "this package depends on it"
    # read where it lies: to import all of scikit-learn for it takes a second and a half of each worker
    rows = torch.from_numpy(numpy.loadtxt(Path(package.origin).parent / FILE, delimiter=",", dtype=numpy.uint8))
    grey = (rows[:, :64].double() * (255.0 / 16.0)).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    everything = Split(grey.repeat(1, 3, 1, 1), rows[:, 64].long())
    train, test = hold_out(everything, 0.2, digest=NAME)
    # Mean and deviation over the pixels of all 1,797 images.
    return Images(train, test, classes=10, mean=(0.3053,) * 3, deviation=(0.3761,) * 3, names=tuple("0123456789"))

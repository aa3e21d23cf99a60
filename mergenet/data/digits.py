"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, inside the package, no download."""

from pathlib import Path

import torch

from mergenet.config import InputError
from mergenet.data.images import Images, Split, hold_out

NAME = "digits"


def load(path: Path | None) -> Images:
    """The digits with a fifth held out as the test split (they come without one), grey as three channels.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI; sixteen grey levels.
    """
    if path is not None:
        raise InputError(f"data {NAME}: comes with scikit-learn and takes no path")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images * (255.0 / 16.0)).round().to(torch.uint8)
    everything = Split(grey.unsqueeze(1).repeat(1, 3, 1, 1), torch.from_numpy(bunch.target).long())
    train, test = hold_out(everything, 0.2, digest=NAME)
    # Mean and deviation over the pixels of all 1,797 images.
    return Images(train, test, classes=10, mean=(0.3053,) * 3, deviation=(0.3761,) * 3, names=tuple("0123456789"))

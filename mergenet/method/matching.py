"""Scale matching: a generated matrix takes over the scale of the one it replaces.

The authors' block ends in LayerNorm, so its rows have unit variance, some fifty times that of a convolution's
weights at their start; nothing in the paper says how the target bears it.
"""

from typing import Literal

from torch import Tensor

Match = Literal["none", "rows", "norm", "moments"]
SMALLEST = 1e-12  # of a norm, before something is divided by it


def match_scale(generated: Tensor, target: Tensor, match: Match) -> Tensor:
    """`generated` (m, n) with the row norms, the Frobenius norm, or the mean and deviation of `target` (m, n)."""
    if match == "rows":
        return generated * (target.norm(dim=1, keepdim=True) / generated.norm(dim=1, keepdim=True).clamp_min(SMALLEST))
    if match == "norm":
        return generated * (target.norm() / generated.norm().clamp_min(SMALLEST))
    if match == "moments":
        centred = generated - generated.mean()
        return target.mean() + centred * (target.std(correction=0) / centred.std(correction=0).clamp_min(SMALLEST))
    return generated

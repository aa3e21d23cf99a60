"""Random numbers keyed by what they are for, never consumed in sequence.

A draw depends on its key alone (seed, model, step, ...), so a run can stop anywhere and go on, an arm
trained alone equals the same arm in company, and two arms of one seed see the same batches.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Part = int | str


def key(*parts: Part) -> int:
    """A seed in [0, 2**63) made from `parts` (SHA-256 of their JSON)."""
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(*parts: Part) -> torch.Generator:
    """A CPU generator seeded by `key(*parts)`."""
    return torch.Generator().manual_seed(key(*parts))


@contextmanager
def seeded(*parts: Part) -> Iterator[None]:
    """torch's own random state set to `key(*parts)` inside, restored after."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key(*parts))
        yield

"""What a refused call says."""

from collections.abc import Callable
from typing import Any

import pytest

from mergenet.config import InputError


def refusal(call: Callable[[], Any]) -> str:
    """The text of the `InputError` that `call` raises, which is always exactly one line."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert text.strip()
    assert len(text.splitlines()) == 1
    return text

"""What the tests of state share."""

from collections.abc import Iterator

import pytest
import torch
from snapshots import SETTINGS


@pytest.fixture(autouse=True)
def same_settings() -> Iterator[None]:
    """What a failing test leaves behind is no other test's affair."""
    before = {name: ask() for name, ask in SETTINGS.items()}
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    assert {name: ask() for name, ask in SETTINGS.items()} == before

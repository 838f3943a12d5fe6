"""Whatever forward changes, a trace puts back: a full picture of model, input and process is the same before and after.

`changing_modules` has the changes, one by one; `snapshots` takes the pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from changing_modules import CHANGES, Changing, Stop
from snapshots import changed_by, differences, taken

import fxgrad
from fxgrad.observe.restore import preserve

ALL = sorted(CHANGES)


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_a_trace(change: str) -> None:
    model, x = Changing([change]), torch.randn(4, 3)
    assert changed_by(lambda: fxgrad.trace(model, x), model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_a_real_backward(change: str) -> None:
    model, x = Changing([change]), torch.randn(4, 3)
    assert changed_by(lambda: fxgrad.verify(model, x), model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_when_it_raises(change: str) -> None:
    model, x = Changing([change, Stop()]), torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError, match="forward raised Stop"):
            fxgrad.trace(model, x)

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_what_forward_changes_is_as_before_when_it_is_interrupted(verb: Callable[..., Any]) -> None:
    model = Changing(["batch_norm", "list_appended", "seeds_set", "hooks_registered", KeyboardInterrupt()])
    x = torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            verb(model, x)

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_each_change_shows_in_the_picture(change: str) -> None:
    """Else the tests above could not fail."""
    model, x = Changing([change]), torch.randn(4, 3)
    before = taken(model, x)
    with preserve(model, x):
        model(x)
        assert differences(before, taken(model, x))

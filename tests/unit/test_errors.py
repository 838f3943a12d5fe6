from __future__ import annotations

import pytest

from fxgrad.errors import (
    FxgradError,
    NothingRequiresGradError,
    OutputError,
    TargetError,
    UsageError,
    error_from_dict,
)


@pytest.mark.parametrize("kind", [FxgradError, UsageError, TargetError, NothingRequiresGradError, OutputError])
def test_an_error_is_the_same_in_another_process(kind):
    error = error_from_dict(kind("given", "allowed", "try", "details").to_dict())
    assert type(error) is kind
    assert (error.given, error.allowed, error.suggestion, error.details) == ("given", "allowed", "try", "details")


def test_an_error_of_a_class_of_elsewhere_becomes_its_nearest_base():
    class OwnError(UsageError):
        pass

    assert type(error_from_dict(OwnError("given", "allowed", "try").to_dict())) is UsageError

"""The errors that fxgrad raises: each says what was given, what is allowed and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class FxgradError(Exception):
    """Something fxgrad was asked for that it cannot do.

    >>> print(FxgradError("depth -1", "a depth of 0 or more", "omit depth to draw everything"))
    depth -1
      allowed: a depth of 0 or more
      try: omit depth to draw everything
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, given: str, allowed: str, suggestion: str, details: str = "") -> None:
        """``details`` is what the command line prints above the message: the traceback of the user's own frames."""
        super().__init__(given, allowed, suggestion, details)
        self.given = given
        self.allowed = allowed
        self.suggestion = suggestion
        self.details = details

    def __str__(self) -> str:
        return f"{self.given}\n  allowed: {self.allowed}\n  try: {self.suggestion}"

    def to_dict(self) -> dict[str, str]:
        """The error as JSON can hold it, for another process; `error_from_dict` makes it again.

        >>> error_from_dict(UsageError("depth -1", "a depth of 0 or more", "omit depth").to_dict())
        UsageError('depth -1', 'a depth of 0 or more', 'omit depth', '')
        """
        return {
            "kind": next(base.__name__ for base in type(self).__mro__ if base.__name__ in _KINDS),
            "given": self.given,
            "allowed": self.allowed,
            "suggestion": self.suggestion,
            "details": self.details,
        }


class UsageError(FxgradError, ValueError):
    """The request itself is wrong: an unknown module path, option, file, format or saved version."""

    exit_status = 2


class TargetError(FxgradError, RuntimeError):
    """The user's own code could not be imported, built or run, or has nothing to differentiate."""

    exit_status = 3


class NothingRequiresGradError(TargetError):
    """Nothing in the output requires grad.

    ``graph``  the BackwardGraph of what was recorded of forward, without any node; None where forward was not recorded
    """

    graph: object = None


class OutputError(FxgradError, OSError):
    """The result could not be drawn or written."""

    exit_status = 4


_KINDS = {kind.__name__: kind for kind in (FxgradError, UsageError, TargetError, NothingRequiresGradError, OutputError)}


def error_from_dict(fields: Mapping[str, str]) -> FxgradError:
    """The error that `FxgradError.to_dict` described; of a class that is not defined here, its nearest base here."""
    return _KINDS[fields["kind"]](fields["given"], fields["allowed"], fields["suggestion"], fields["details"])

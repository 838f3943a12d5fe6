"""The traceback of an error in the user's code, without the frames of fxgrad and torch that lie between."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import torch

from fxgrad import version
from fxgrad.errors import TargetError
from fxgrad.graph.text import escape, escape_unprintable

_FXGRAD = os.path.dirname(os.path.abspath(version.__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_IMPORT_MACHINERY = "<frozen "


def user_traceback(error: BaseException) -> str:
    """The traceback of an error as Python prints it, causes included, cut to the user's own frames.

    Frames of fxgrad, of the import machinery and of torch are left out. Where that leaves none (a module class of
    torch whose constructor raised), torch's are kept.
    """
    shown = traceback.TracebackException.from_exception(error)
    for part in _chain(shown):
        part.stack = _cut(part.stack)
    return "".join(shown.format()).rstrip("\n")


class UserCode(AbstractContextManager[None]):
    """Runs the user's code inside; whatever it raises becomes the error that `told` makes of it.

    What is `passing` passes; KeyboardInterrupt is the user at the keyboard. A generator cannot do this: contextlib
    lets a StopIteration out again where a RuntimeError, as TargetError is one, was raised from it.
    """

    def __init__(
        self,
        told: Callable[[BaseException], TargetError],
        *,
        passing: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    ) -> None:
        self._told = told
        self._passing = passing

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        """Raise what is told of the error."""
        if error is not None and not isinstance(error, self._passing):
            raise self._told(error) from error


def user_code(doing: str, *, allowed: str, advice: Callable[[BaseException], str]) -> UserCode:
    """Run the user's code; whatever it raises becomes a TargetError with the user's traceback as its details.

    ``doing`` completes "ValueError while ..."; ``advice`` says what to try.
    """

    def told(error: BaseException) -> TargetError:
        given = f"{escape(type(error).__name__)} while {doing}"
        return TargetError(given, allowed, _after_exit(error) or advice(error), user_traceback(error))

    return UserCode(told)


def _after_exit(error: BaseException) -> str | None:
    if not isinstance(error, SystemExit):
        return None
    return 'put what runs only as a program under `if __name__ == "__main__":`'


def _chain(shown: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    waiting, seen = [shown], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        linked = (part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ()))
        waiting += [other for other in linked if other is not None]


def _cut(stack: traceback.StackSummary) -> traceback.StackSummary:
    outside = _without(stack, lambda file: file.startswith((_FXGRAD, _IMPORT_MACHINERY)))
    own = _without(outside, lambda file: file.startswith(_TORCH))
    return own or outside


def _without(frames: Iterable[traceback.FrameSummary], is_hidden: Callable[[str], bool]) -> traceback.StackSummary:
    return traceback.StackSummary.from_list([frame for frame in frames if not is_hidden(frame.filename)])


def message_of(error: BaseException) -> str:
    """The first line of what the error says; all of it is in the traceback."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # the user's own class
        return "(its message cannot be shown)"
    return escape_unprintable(lines[0]) if lines else "(no message)"

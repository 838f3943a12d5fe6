"""Which line of the user's code is running.

The user's code is everything outside torch, fxgrad and the standard library. Frames are kept as (code, instruction)
pairs, which cost a tenth of a traceback; lines and texts are looked up afterwards.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from types import CodeType, FrameType

import torch

from fxgrad.graph import Source

Frame = tuple[CodeType, int]

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ENTRY = os.path.join(_OWN, "observe", "tracing.py")
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
_SITE_PACKAGES = tuple(sysconfig.get_paths()[name] + os.sep for name in ("purelib", "platlib"))

_MODULE_CALL = ("_wrapped_call_impl", "_call_impl")
"""What lies between ``module(x)`` and ``forward`` (torch/nn/modules/module.py)."""

_is_user: dict[CodeType, bool] = {}


def user_frames(limit: FrameType | None) -> tuple[Frame, ...]:
    """The frames of the user's code that are running, innermost first, up to and without `limit`.

    Where there are none below `limit` (a torch module that was called directly), the innermost frame of torch.
    """
    frame: FrameType | None = sys._getframe(2)
    found: list[Frame] = []
    fallback: Frame | None = None
    while frame is not None and frame is not limit:
        code = frame.f_code
        if code.co_filename == _ENTRY:  # what lies outside called fxgrad, not the model
            break
        user = _is_user.get(code)
        if user is None:
            user = _is_user[code] = _is_user_code(code)
        if user:
            found.append((code, frame.f_lineno))
        elif fallback is None and code.co_filename.startswith(_TORCH):
            fallback = (code, frame.f_lineno)
        frame = frame.f_back
    if found or fallback is None:
        return tuple(found)
    return (fallback,)


def user_calls_module() -> bool:
    """Whether the user's own code calls the module that is being called, and not torch or fxgrad for it."""
    recorder = sys._getframe(1).f_code.co_filename
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename != recorder and code.co_name not in _MODULE_CALL:
            return _is_user_code(code)
        frame = frame.f_back
    return False


def _is_user_code(code: CodeType) -> bool:
    file = code.co_filename
    if file.startswith("<frozen") or file.startswith((_OWN, _TORCH)):
        return False
    return file.startswith(_SITE_PACKAGES) or not file.startswith(_STANDARD_LIBRARY)


def source_of(frames: tuple[Frame, ...]) -> Source | None:
    """The innermost of the frames, with the text of its line."""
    if not frames:
        return None
    code, line = frames[0]
    return Source(
        _shown(code.co_filename),
        line,
        _line(code.co_filename, line),
        code.co_qualname if hasattr(code, "co_qualname") else code.co_name,
    )


def definition_of(function: object) -> Source | None:
    """Where a function, or the class of a callable object, is defined."""
    code = getattr(function, "__code__", None) or getattr(
        getattr(type(function), "__call__", None),  # noqa: B004
        "__code__",
        None,
    )
    if not isinstance(code, CodeType):
        return None
    return Source(
        _shown(code.co_filename), code.co_firstlineno, _line(code.co_filename, code.co_firstlineno), code.co_name
    )


def stack_trace(frames: tuple[Frame, ...]) -> str:
    """The frames as torch.fx keeps them in ``meta["stack_trace"]``: outermost first."""
    return "".join(
        f'File "{code.co_filename}", line {line}, in {code.co_name}\n    {_line(code.co_filename, line)}\n'
        for code, line in reversed(frames)
    )


def _line(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()


def _shown(file: str) -> str:
    """Relative to the current folder where the file lies in it: the same program gives the same bytes anywhere."""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    return file if relative.startswith(os.pardir) else relative

"""Which line of the user's code is running, and the traceback of an error in it.

The user's code is everything outside torch, fxgrad and the standard library. While a forward is recorded, frames are
kept as (code, instruction) pairs, which cost a tenth of a traceback; lines and texts are looked up afterwards.
"""

from __future__ import annotations

import functools
import linecache
import os
import re
import sys
import sysconfig
import traceback
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import CodeType, FrameType, TracebackType
from typing import Any

import torch

from fxgrad.errors import TargetError
from fxgrad.graph import Source
from fxgrad.graph.text import escape, escape_unprintable

Frame = tuple[CodeType, int]
"""A code object, and the offset of the instruction that runs (``frame.f_lasti``)."""

_OWN = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep  # fxgrad/
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
_IMPORT_MACHINERY = "<frozen "
_SITE_PACKAGES = tuple({sysconfig.get_paths()[name] + os.sep for name in ("purelib", "platlib")})

_kinds: dict[str, bool | None] = {os.path.join(_TORCH, "fx", "graph_module.py"): False}
"""Of files with code that ran: True for the user's, None for torch's, False for the rest: that of a GraphModule is there
around every call of one."""
_traces: dict[str, dict[int, str]] = {}
"""By the name of a file that torch.fx has generated: for a line, the stack trace of what it was generated from."""


class Stack:
    """The frames that are running, innermost first: the user's, or one of torch's where there is none of the user's.

    ``direct`` says that the user's own line made the call, not torch on its behalf.
    """

    __slots__ = ("direct", "frames", "users")

    def __init__(self, frames: tuple[Frame, ...], *, users: bool, direct: bool) -> None:
        self.frames = frames
        self.users = users
        self.direct = direct


GENERATED = "<GraphModule.code>"
"""What reports call a file that torch.fx has generated: its real name counts those that were generated before."""
_TRACED = re.compile(
    r'^ *File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>[^\n]*)(?:\n(?! *File ")(?P<code>[^\n]*))?',
    re.MULTILINE,
)
"""One frame of a stack trace, as ``traceback.StackSummary.format`` and torch.export write it."""
_TRACERS = re.compile(r"[/\\]torch[/\\](?:_dynamo|_export|export|fx)[/\\]")

NO_STACK = Stack((), users=False, direct=False)


def read_stack(frame: FrameType | None, limit: FrameType | None, around: Stack = NO_STACK) -> Stack:
    """The frames from `frame` outwards, up to and without `limit`; `around` is what is known of those from there on.

    Where none is the user's, the one of torch that is next to `limit`: the forward of the module that is running.
    """
    found: list[Frame] = []
    torchs: Frame | None = None
    kinds = _kinds
    while frame is not None and frame is not limit:
        code = frame.f_code
        file = code.co_filename
        try:  # in line: this loop goes through every frame of every recorded call
            users = kinds[file]
        except KeyError:
            users = kinds[file] = _kind(file)
        if users:
            found.append((code, frame.f_lasti))
        elif users is None and not found and code.co_name not in _MACHINERY:
            torchs = (code, frame.f_lasti)
        frame = frame.f_back
    if found:
        return Stack((*found, *around.frames) if around.users else tuple(found), users=True, direct=torchs is None)
    if around.users or torchs is None:
        return around if torchs is None else Stack(around.frames, users=True, direct=False)
    return Stack((torchs,), users=False, direct=False)


_MACHINERY = ("_call_impl", "_wrapped_call_impl", "inner")
"""Of torch/nn/modules/module.py: they stand between every call of a module and its forward."""


def _kind(file: str) -> bool | None:
    if file.startswith(_TORCH):
        return None
    if file.startswith((_IMPORT_MACHINERY, _OWN)):
        return False
    return file.startswith(_SITE_PACKAGES) or not file.startswith(_STANDARD_LIBRARY)


def is_user_code(code: CodeType) -> bool:
    """Whether code is the user's: not torch's, fxgrad's or the standard library's."""
    return _kind(code.co_filename) is True


def is_torch_code(code: CodeType) -> bool:
    """Whether code is in a file of torch's."""
    return _kind(code.co_filename) is None


def find_package(code: CodeType) -> str | None:
    """The folder or file in site-packages that code is installed in; "" for what is the program's own, None for torch,
    fxgrad and the standard library."""
    if not is_user_code(code):
        return None
    folder = next((folder for folder in _SITE_PACKAGES if code.co_filename.startswith(folder)), None)
    return "" if folder is None else folder + code.co_filename.removeprefix(folder).partition(os.sep)[0]


def forget_sources() -> None:
    """Forget the texts of lines: files may have changed since the last look."""
    _list_lines.cache_clear()
    _source.cache_clear()
    _trace_of.cache_clear()
    _traces.clear()
    linecache.checkcache()


def is_generated(file: str) -> bool:
    """Whether torch.fx has generated the code: torch/fx/graph_module.py, ``_EvalCacheLoader``.

    >>> is_generated("<eval_with_key>.3 from /home/me/model.py:12 in forward"), is_generated("<stdin>")
    (True, False)
    """
    return file.startswith("<eval_with_key>")


def note_generated(file: str, traces: dict[int, str]) -> None:
    """Note what the lines of a generated file were generated from: stack traces as torch.fx keeps them."""
    _traces[file] = traces


def find_stack_source(stack: Stack) -> Source | None:
    """The innermost frame, with the text of its line."""
    return _source(stack.frames[0][0].co_filename, *stack.frames[0]) if stack.frames else None


@functools.cache
def _source(_: str, code: CodeType, instruction: int) -> Source:
    """By the file, too: pieces of code that differ in nothing else are equal."""
    return make_source(code, find_line(code, instruction))


def make_source(code: CodeType, line: int) -> Source:
    """A line of a piece of code, with its text; of generated code the user's line that it was generated from, if known."""
    file = code.co_filename
    traced = _read_traced(_traces.get(file, {}).get(line, ""))
    shown = GENERATED if is_generated(file) else shorten_path(file)
    return traced or Source(shown, line, _line(file, line), name_code(code))


def name_code(code: CodeType) -> str:
    """The name of a function's code: qualified, where Python knows that (from 3.11 on)."""
    return code.co_qualname if hasattr(code, "co_qualname") else code.co_name


def _read_traced(trace: str) -> Source | None:
    """The innermost of the user's lines in a stack trace; else the innermost of torch's, without those that traced."""
    frames = [frame for frame in _TRACED.finditer(trace) if not _TRACERS.search(frame["file"])]
    users = [frame for frame in frames if not _is_torch(frame["file"])]
    if not frames:
        return None
    frame = (users or frames)[-1]
    return Source(shorten_path(frame["file"]), int(frame["line"]), (frame["code"] or "").strip(), frame["function"])


def _is_torch(file: str) -> bool:
    """Whether a file is torch's, on whichever machine."""
    return file.startswith(_TORCH) or re.search(r"[/\\](?:site|dist)-packages[/\\]torch[/\\]", file) is not None


def find_line(code: CodeType, instruction: int) -> int:
    """The line that an instruction of a piece of code is on."""
    starts, lines = _list_lines(code)
    return lines[max(0, bisect_right(starts, instruction) - 1)] or code.co_firstlineno


@functools.cache
def _list_lines(code: CodeType) -> tuple[list[int], list[int | None]]:
    """Where the instructions of each line begin, and the lines: generated code has thousands."""
    entries = [(start, line) for start, _, line in code.co_lines()]
    return [start for start, _ in entries], [line for _, line in entries]


def make_script_source(file: str, line: int, code: str | None, function: str) -> Source:
    """A line that a script tells; its text is that of the file where `code` is None."""
    return Source(shorten_path(file), line, _line(file, line) if code is None else code, function)


def is_users_file(file: str) -> bool:
    """Whether a file that a script tells is the user's. An archive may come from a machine with torch elsewhere, and the code
    in it lies in folders named after the modules that it was in."""
    path = file.replace(os.sep, "/")
    return _kind(file) is True and not ("/site-packages/torch/" in path or path.startswith("code/__torch__/torch/"))


def find_error_source(error: BaseException) -> Source | None:
    """The innermost of the user's lines that an error passed through."""
    step: TracebackType | None = error.__traceback__
    found: Source | None = None
    while step is not None:
        if is_user_code(step.tb_frame.f_code):
            found = make_source(step.tb_frame.f_code, step.tb_lineno)
        step = step.tb_next
    return found


def format_stack(stack: Stack) -> str:
    """The frames as torch.fx keeps them in ``meta["stack_trace"]``: outermost first."""
    return "".join([_trace_of(frame[0].co_filename, *frame) for frame in reversed(stack.frames)])


@functools.cache
def _trace_of(_: str, code: CodeType, instruction: int) -> str:
    line = find_line(code, instruction)
    traced = _traces.get(code.co_filename, {}).get(line)
    if traced:
        return traced if traced.endswith("\n") else f"{traced}\n"
    text = _line(code.co_filename, line)
    return f'File "{code.co_filename}", line {line}, in {code.co_name}\n    {text}\n'


def _line(file: str, line: int) -> str:
    lines = read_lines(file)
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def read_lines(file: str, names: dict[str, Any] | None = None) -> list[str]:
    """The lines of a source file, whose module has the global `names`; none of what is a device, or no name of a file.

    >>> read_lines(os.devnull), read_lines("a" + chr(0))
    ([], [])
    """
    if os.path.exists(file) and not os.path.isfile(file):
        return []  # reading a device or a pipe may never end
    try:
        return linecache.getlines(file, names)
    except ValueError:  # linecache catches errors of the file system alone
        return []


def shorten_path(file: str) -> str:
    """A file's name in records, the same wherever a program lies and runs.

    Relative to where packages are installed, to the current folder, or to where modules are found, whichever holds
    it first; else its last name.
    """
    if not os.path.isabs(file):
        return file
    nearest = sorted((os.path.abspath(entry) for entry in sys.path if entry), key=len, reverse=True)
    return _relative(file, [*_SITE_PACKAGES, _STANDARD_LIBRARY, os.getcwd(), *nearest])


def _relative(file: str, folders: Iterable[str]) -> str:
    """The file's name in the first of the folders that holds it.

    >>> _relative("/home/me/work/model.py", ["/usr/lib", "/home/me"])
    'work/model.py'
    >>> _relative("/elsewhere/model.py", ["/usr/lib", "/home/me"])
    'model.py'
    """
    for folder in folders:
        start = folder.rstrip(os.sep) + os.sep
        if file.startswith(start) and len(start) > 1:
            return file[len(start) :].replace(os.sep, "/")
    return os.path.basename(file)


# Errors in the user's code


def format_user_traceback(error: BaseException) -> str:
    """The traceback of an error as Python prints it, causes included, cut to the user's own frames.

    Frames of fxgrad, of the import machinery and of torch are left out. Where that leaves none (a module class of
    torch whose constructor raised), torch's are kept.
    """
    shown = traceback.TracebackException.from_exception(error)
    for part in _chain(shown):
        part.stack = _cut(part.stack)
    return "".join(shown.format()).rstrip("\n")


class UserCode(AbstractContextManager[None]):
    """Runs the user's code inside; whatever it raises becomes the error that `make_error` makes of it.

    What is `passing` passes; KeyboardInterrupt is the user at the keyboard. A generator cannot do this: contextlib
    lets a StopIteration out again where a RuntimeError, as TargetError is one, was raised from it.
    """

    def __init__(
        self,
        make_error: Callable[[BaseException], TargetError],
        *,
        passing: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    ) -> None:
        self._make_error = make_error
        self._passing = passing

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        """Raise the error that is made of it."""
        if error is not None and not isinstance(error, self._passing):
            raise self._make_error(error) from error


def user_code(doing: str, *, allowed: str, advice: Callable[[BaseException], str]) -> UserCode:
    """Run the user's code; whatever it raises becomes a TargetError with the user's traceback as its details.

    ``doing`` completes "ValueError while ..."; ``advice`` says what to try.
    """

    def make_error(error: BaseException) -> TargetError:
        given = f"{escape(type(error).__name__)} while {doing}"
        return TargetError(given, allowed, _after_exit(error) or advice(error), format_user_traceback(error))

    return UserCode(make_error)


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
    outside = _without(stack, lambda file: file.startswith((_OWN, _IMPORT_MACHINERY)))
    own = _without(outside, lambda file: file.startswith(_TORCH))
    return own or outside


def _without(frames: Iterable[traceback.FrameSummary], is_hidden: Callable[[str], bool]) -> traceback.StackSummary:
    return traceback.StackSummary.from_list([frame for frame in frames if not is_hidden(frame.filename)])


def format_message(error: BaseException) -> str:
    """The first line of what the error says; all of it is in the traceback."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # the user's own class
        return "(its message cannot be shown)"
    return escape_unprintable(lines[0]) if lines else "(no message)"

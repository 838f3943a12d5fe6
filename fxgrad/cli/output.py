"""Results on stdout and in files, progress on stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import click

from fxgrad.errors import OutputError, UsageError
from fxgrad.graph.text import escape

_STDOUT, _STDERR = 1, 2
_FIRST_SECONDS = 2.0


class File(NamedTuple):
    """A file to write: its path, and what makes its text."""

    path: str
    make: Callable[[], str]


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Send what is written to stdout meanwhile to stderr, also what C code and other programs write."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as afterwards:
        with contextlib.suppress(OSError):  # one of the two is closed: then nothing can mix
            kept = os.dup(_STDOUT)
            afterwards.callback(_restore, kept)
            os.dup2(_STDERR, _STDOUT)
        yield


def _restore(kept: int) -> None:
    os.dup2(kept, _STDOUT)
    os.close(kept)


@contextlib.contextmanager
def progress(doing: str, *, first: float = _FIRST_SECONDS) -> Iterator[None]:
    """On a terminal, say what is being done after 2 s, 4 s, 8 s, ...

    Whole lines rather than a spinner, so that a debugger in the user's code stays usable.
    """
    stream = sys.stderr
    if stream is None or not stream.isatty():
        yield
        return
    done = threading.Event()
    threading.Thread(target=_say_progress, args=(doing, first, stream.fileno(), done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _say_progress(doing: str, first: float, descriptor: int, done: threading.Event) -> None:
    elapsed, wait = first, first
    while not done.wait(wait):
        with contextlib.suppress(OSError):  # not print: a child that is forked meanwhile would find stderr's lock taken
            os.write(descriptor, f"fxgrad: {doing}, {elapsed:g} s\n".encode(errors="backslashreplace"))
        elapsed, wait = elapsed * 2, elapsed


def show(result: object) -> None:
    """Write a result to stdout: as ``__rich__`` shows it on a terminal, else its plain text.

    A reader that has gone (``| head -1``) is no error. Raises OutputError where stdout cannot be written.
    """
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        _print(result)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        raise OutputError(
            f"cannot write to stdout: {error.strerror}",
            "a terminal, pipe or file that can be written to",
            "another file or disk",
        ) from error


def _print(result: object) -> None:
    if sys.stdout.isatty() and hasattr(result, "__rich__"):
        from rich.console import Console

        Console().print(result)
    else:
        print(str(result).rstrip("\n"))


def _forget_stdout() -> None:
    """Discard what is still buffered, or Python would fail on it once more when it exits."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_distinct(paths: Sequence[str], *, target: str) -> None:
    """Raise UsageError where an output has no name, two are one file, or one is the target's own."""
    if "" in paths:
        raise UsageError("an empty output name", "the name of a file", "omit the option, or name a file")
    places = [os.path.realpath(path) for path in paths]
    sources = {os.path.realpath(target), os.path.realpath(target.rpartition(":")[0])}
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{escape(path)} is given for two outputs", "a file for each output", "another name")
        if place in sources and os.path.isfile(place):
            raise UsageError(f"the output {escape(path)} is the target", "a separate file", "another name")


def write_files(files: Sequence[File]) -> None:
    """Write every file that can be written and name it on stderr.

    Raises OutputError for the first that cannot be, which says what became of the others.
    """
    written: list[str] = []
    errors: list[OutputError] = []
    for file in files:
        try:
            _write(file)
            written.append(file.path)
        except OutputError as error:
            errors.append(error)
    if errors:
        raise _join_errors(errors, written)


def _write(file: File) -> None:
    from fxgrad.render.files import write_file

    write_file(file.make().encode(errors="backslashreplace"), file.path)
    announce_file(file.path)


def announce_file(path: str) -> None:
    """Say on stderr that a file was written."""
    click.echo(f"wrote {escape(path)}", err=True)


def _join_errors(errors: Sequence[OutputError], written: Sequence[str]) -> OutputError:
    first = errors[0]
    also = "".join(f"\n{error.given}" for error in errors[1:])
    others = f"\nwritten: {', '.join(map(escape, written))}" if written else ""
    return OutputError(f"{first.given}{also}{others}", first.allowed, first.suggestion)

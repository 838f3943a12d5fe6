"""The only place that runs a layout engine, and the only one that writes a picture to a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fxgrad.errors import OutputError, UsageError
from fxgrad.graph.text import escape

FORMATS = ("svg", "png", "pdf", "dot")
SHOWN_LINES = 3
DRAFT_NAME = 100

_BUNDLED_ENGINE = """
import sys
sys.path[:] = sys.argv[2:]
import pygraphviz
source = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(pygraphviz.AGraph(string=source).draw(format=sys.argv[1], prog="dot"))
"""
"""Run with the caller's import path: the working directory may hold a file that hides a module."""


def format_of(path: str | os.PathLike[str]) -> str:
    """Tell a picture's format from the end of its file's name.

    Raises `UsageError` for an unknown one.

    >>> format_of("graph.SVG")
    'svg'
    """
    suffix = Path(path).suffix
    if suffix[1:].lower() in FORMATS:
        return suffix[1:].lower()
    problem = f'unknown format "{escape(suffix[1:])}"' if suffix else "its name does not end in a format"
    raise UsageError(
        f'picture "{escape(os.fspath(path))}": {problem}',
        f"a file name that ends in {_named_formats('.')}",
        f'"{escape(Path(path).stem or "graph")}.svg"',
    )


def check_svg(path: str | os.PathLike[str]) -> None:
    """Refuse to write an SVG under a name that promises another format.

    Raises `UsageError`.
    """
    suffix = Path(path).suffix[1:].lower()
    if suffix in FORMATS and suffix != "svg":
        raise UsageError(
            f'SVG picture "{escape(os.fspath(path))}": its name ends in .{suffix}',
            "a file name that ends in .svg",
            f'"{escape(Path(path).stem)}.svg"; fxgrad draw -o writes .{suffix}',
        )


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise the `OutputError` that `write` would raise for a file in a folder that is not there, before any work."""
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise _cannot_write(path, os.strerror(errno.ENOENT))
    if place.is_dir():
        raise _cannot_write(path, os.strerror(errno.EISDIR))


def render(source: str, format: str) -> bytes:
    """Lay DOT source out and draw it; ``"dot"`` is the source itself, in UTF-8, without a layout.

    ``dot`` does it where it is on the PATH, otherwise the engine in pygraphviz's wheel; either in a process of its
    own, so that a crash or a warning of the C library stays away from the caller.

    Raises `UsageError` for a format that is none of `FORMATS`, `OutputError` where the engine fails.
    """
    if format not in FORMATS:
        raise UsageError(f'format "{escape(format)}"', _named_formats(""), '"svg"')
    return source.encode() if format == "dot" else _laid_out(source, format)


def positions(source: str) -> Any:
    """Where everything in DOT source comes to lie: what Graphviz's ``-Tjson`` says, as Python values.

    Raises `OutputError` where the engine fails.
    """
    return json.loads(_laid_out(source, "json").decode(errors="replace"))


def _laid_out(source: str, format: str) -> bytes:
    try:
        run = subprocess.run(_engine(format), input=source.encode(), capture_output=True, check=False)
    except OSError as error:
        raise _failed(str(error)) from error
    if run.returncode or not run.stdout:
        raise _failed(run.stderr.decode(errors="replace"))
    return run.stdout


def write(content: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all: beside its place first, then moved there.

    Raises `OutputError` where that is not possible; a file that was there before is then as it was.
    """
    try:
        place = Path(os.path.realpath(path))
        if place.exists() and not place.is_file() and not place.is_dir():
            place.write_bytes(content)  # a device or a pipe is written to, never replaced
        else:
            _replace(place, content)
    except (OSError, ValueError) as error:  # a null character in the name is a ValueError
        raise _cannot_write(path, getattr(error, "strerror", None) or str(error)) from error


def _cannot_write(path: str | os.PathLike[str], why: str) -> OutputError:
    return OutputError(
        f'cannot write "{escape(os.fspath(path))}": {why}',
        "a file in a folder that exists and that you may write to",
        _instead(Path(path)),
    )


def _engine(format: str) -> list[str]:
    dot = shutil.which("dot")
    return [dot, f"-T{format}"] if dot else [sys.executable, "-c", _BUNDLED_ENGINE, format, *sys.path]


def _failed(errors: str) -> OutputError:
    last = "; ".join(escape(line) for line in errors.strip().splitlines()[-SHOWN_LINES:])
    return OutputError(
        f"the layout engine failed: {last or 'it said nothing'}",
        "a working `dot` on the PATH, or pygraphviz",
        "pip install pygraphviz; or write a .dot file, which needs no layout",
    )


def _replace(place: Path, content: bytes) -> None:
    draft = place.with_name(f".{place.name[:DRAFT_NAME]}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            file.write(content)
        draft.replace(place)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _instead(place: Path) -> str:
    if place.is_dir():
        return f'"{escape(str(place / "graph.svg"))}": it is a folder'
    if not place.parent.is_dir():
        return f'make the folder "{escape(str(place.parent))}" first'
    return "another file name or folder"


def _named_formats(before: str) -> str:
    names = [f"{before}{format}" for format in FORMATS]
    return f"{', '.join(names[:-1])} or {names[-1]}"

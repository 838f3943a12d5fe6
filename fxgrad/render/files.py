"""The only place that writes files: whole or not at all. And what the end of a file's name says."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from fxgrad.errors import OutputError, UsageError
from fxgrad.graph.text import escape

FORMATS = ("svg", "png", "pdf", "dot")
DRAFT_NAME = 100


def find_format(path: str | os.PathLike[str]) -> str:
    """Tell a picture's format from the end of its file's name.

    Raises `UsageError` for an unknown one.

    >>> find_format("graph.SVG")
    'svg'
    """
    suffix = Path(path).suffix
    if suffix[1:].lower() in FORMATS:
        return suffix[1:].lower()
    problem = f'unknown format "{escape(suffix[1:])}"' if suffix else "its name does not end in a format"
    raise UsageError(
        f'picture "{escape(os.fspath(path))}": {problem}',
        f"a file name that ends in {name_formats('.')}",
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
    """Raise the `OutputError` that `write_file` would raise for a file in a folder that is not there, before any work."""
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise _make_error(path, os.strerror(errno.ENOENT))
    if place.is_dir():
        raise _make_error(path, os.strerror(errno.EISDIR))


def write_file(content: bytes, path: str | os.PathLike[str]) -> None:
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
        raise _make_error(path, getattr(error, "strerror", None) or str(error)) from error


def _replace(place: Path, content: bytes) -> None:
    draft = place.with_name(f".{place.name[:DRAFT_NAME]}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            file.write(content)
        draft.replace(place)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _make_error(path: str | os.PathLike[str], why: str) -> OutputError:
    return OutputError(
        f'cannot write "{escape(os.fspath(path))}": {why}',
        "a file in an existing, writable folder",
        _suggest_path(Path(path)),
    )


def _suggest_path(place: Path) -> str:
    if place.is_dir():
        return f'"{escape(str(place / "graph.svg"))}": it is a folder'
    if not place.parent.is_dir():
        return f'make the folder "{escape(str(place.parent))}" first'
    return "another file name or folder"


def name_formats(before: str) -> str:
    """The formats in a sentence, each behind `before`: ``.svg, .png, .pdf or .dot``."""
    names = [f"{before}{format}" for format in FORMATS]
    return f"{', '.join(names[:-1])} or {names[-1]}"

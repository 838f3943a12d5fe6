"""The only place that writes files: whole or not at all. And what the end of a file's name says."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial
from pathlib import Path

from fxgrad.errors import OutputError, UsageError
from fxgrad.graph.text import escape

FORMATS = ("svg", "png", "pdf", "dot")
DRAFT_NAME = 100
"""So many bytes of a file's name are in that of its draft, which may not be longer than 255."""


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
    """Raise the `OutputError` that `write_file` would raise for a place that cannot be written to, before any work."""
    try:
        place = os.path.realpath(path)
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with contextlib.suppress(FileNotFoundError):
            _check_writable(os.stat(place))
        os.stat(os.path.dirname(place))
    except (OSError, ValueError) as error:
        raise _make_error(path, error) from error


def write_file(content: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all: beside its place first, then moved there. A file that was there before is
    replaced by one with the same permissions.

    Raises `OutputError` where that is not possible, or nobody may write to the file that was there, which then stays.
    """
    try:
        place = Path(os.path.realpath(path))
        if place.exists() and not place.is_file() and not place.is_dir():
            place.write_bytes(content)  # a device or a pipe is written to, never replaced
        else:
            _replace(place, content)
    except (OSError, ValueError) as error:
        raise _make_error(path, error) from error


def _replace(place: Path, content: bytes) -> None:
    permissions = None
    with contextlib.suppress(FileNotFoundError):
        _check_writable(before := place.stat())
        permissions = stat.S_IMODE(before.st_mode)
    name = os.fsdecode(os.fsencode(place.name)[:DRAFT_NAME])
    draft = place.with_name(f".{name}.{os.getpid()}.part")
    try:
        with open(draft, "xb", opener=partial(os.open, mode=0o666 if permissions is None else 0o600)) as file:
            file.write(content)
        if permissions is not None:
            draft.chmod(permissions)
        draft.replace(place)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _check_writable(status: os.stat_result) -> None:
    """Refuse to replace a file that its owner has protected: replacing it needs no permission but the folder's."""
    if stat.S_ISREG(status.st_mode) and not status.st_mode & stat.S_IWUSR:
        raise PermissionError(errno.EACCES, "the file is read-only")


def _make_error(path: str | os.PathLike[str], error: OSError | ValueError) -> OutputError:
    """A null character in the name is a ValueError."""
    return OutputError(
        f'cannot write "{escape(os.fspath(path))}": {getattr(error, "strerror", None) or error}',
        "a file in an existing, writable folder",
        _suggest_path(Path(path)),
    )


def _suggest_path(place: Path) -> str:
    try:
        if place.is_dir():
            return f'"{escape(str(place / "graph.svg"))}": it is a folder'
        if not place.parent.is_dir():
            return f'make the folder "{escape(str(place.parent))}" first'
    except (OSError, ValueError):  # a name that the system cannot look up
        pass
    return "another file name or folder"


def name_formats(before: str) -> str:
    """The formats in a sentence, each behind `before`: ``.svg, .png, .pdf or .dot``."""
    names = [f"{before}{format}" for format in FORMATS]
    return f"{', '.join(names[:-1])} or {names[-1]}"

"""What a TARGET string names: a file or a module of Python, and something in it. Nothing is imported here."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape, escape_unprintable

FORMS = "file.py[:factory], package.module[:factory], a class such as torch.nn:LSTMCell, or a saved trace.json"
DEFAULT_FACTORY = "build"

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class TargetText(NamedTuple):
    """A parsed TARGET: ``origin`` is a path if ``is_file``, else a dotted module name; ``name`` is None if left out."""

    origin: str
    name: str | None
    is_file: bool

    def __str__(self) -> str:
        return self.origin if self.name is None else f"{self.origin}:{self.name}"


def parse_target(text: str) -> TargetText:
    r"""What a TARGET string names.

    Raises UsageError where the string has none of the forms, or names a file that is not there.

    >>> parse_target("torch.nn:LSTMCell")
    TargetText(origin='torch.nn', name='LSTMCell', is_file=False)
    >>> split_name(r"C:\models\lstm.py:build")
    ('C:\\models\\lstm.py', 'build')
    """
    if "://" in text:
        raise UsageError(f"{text!r} is an address: nothing is fetched", FORMS, "download it, and give the file's path")
    origin, name = split_name(text)
    if name is not None and not _is_dotted_name(name):
        raise UsageError(f"{text!r}: {name!r} after the colon is not a Python name", FORMS, _without_name(origin))
    if _looks_like_file(origin):
        return TargetText(_existing_file(origin), name, is_file=True)
    if not _is_dotted_name(origin):
        raise UsageError(
            f"{text!r} is neither a file nor a dotted module name", FORMS, "fxgrad report path/to/file.py:factory"
        )
    return TargetText(origin, name, is_file=False)


def split_name(text: str) -> tuple[str, str | None]:
    r"""A TARGET as its origin and the name after the last colon; the colon of a Windows drive is part of the path.

    >>> split_name("model.py:make"), split_name(r"C:\model.py"), split_name("model.py")
    (('model.py', 'make'), ('C:\\model.py', None), ('model.py', None))
    """
    if ":" not in text or os.path.isfile(text):
        return text, None
    origin, _, name = text.rpartition(":")
    if _DRIVE.match(text) and len(origin) == 1:
        return text, None
    return origin, name


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _without_name(origin: str) -> str:
    return (
        f"{escape_unprintable(origin)}:{DEFAULT_FACTORY}, or leave the colon out"
        if origin
        else "fxgrad report path/to/file.py:factory"
    )


def _looks_like_file(origin: str) -> bool:
    """Whether a path is meant: a folder of a dotted name may be a package, any other thing that exists is a path."""
    is_path = origin.endswith(".py") or any(mark in origin for mark in "/\\")
    return is_path or os.path.isfile(origin) or (os.path.exists(origin) and not _is_dotted_name(origin))


def _existing_file(origin: str) -> str:
    if os.path.isdir(origin):
        raise UsageError(f"{escape(origin)} is a folder", FORMS, files_in(Path(origin)) or "a file.py in it")
    if not os.path.exists(origin):
        raise UsageError(f"no such file: {escape(origin)}", FORMS, _nearest_file(Path(origin)))
    if not (os.path.isfile(origin) and origin.endswith(".py")):
        raise UsageError(f"{escape(origin)} is not a Python file", FORMS, "give the .py file that builds the model")
    return origin


def _nearest_file(path: Path) -> str:
    files = {file.stem: file for file in _python_files(path.parent)}
    near = [str(files[stem]) for stem in difflib.get_close_matches(path.stem, files)]
    return ", ".join(map(escape, near)) or f"a path from here, {escape(os.getcwd())}"


def files_in(folder: Path) -> str:
    """The first Python files of a folder, as a phrase; "" where there are none."""
    return ", ".join(escape(str(file)) for file in _python_files(folder)[:3])


def _python_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py")) if os.path.isdir(folder) else []

"""Importing the user's file or module as ``python file.py`` would, and leaving the process as it was."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape
from fxgrad.observe.target_text import FORMS, TargetText
from fxgrad.observe.tracebacks import user_code

_PREFIX = "fxgrad_target_"
_MOST_NAMES = 8
_MOST_MODULES = 3
_running: ContextVar[TargetText | None] = ContextVar("_running", default=None)


@contextmanager
def as_program(target: TargetText) -> Iterator[None]:
    """Give the user's code what ``python file.py`` gives it: its folder first on sys.path, its name in sys.argv.

    No ``__pycache__`` is written meanwhile. Afterwards sys.path, sys.argv and the flag are as before, and what was
    imported from a file's own folder leaves sys.modules: the next target may have another ``helper.py``. A dotted
    module gets the current folder, as ``python -m`` does. Entering it again for the same target changes nothing.
    """
    if _running.get() == target:
        yield
        return
    folder = str(Path(target.origin).resolve().parent) if target.is_file else os.getcwd()
    before = set(sys.modules) if target.is_file and folder not in sys.path else None
    token = _running.set(target)
    try:
        with _interpreter_state(folder, target.origin):
            yield
    finally:
        _running.reset(token)
        if before is not None:
            _forget_modules_of(folder, before)


@contextmanager
def _interpreter_state(folder: str, program: str) -> Iterator[None]:
    path, entries, arguments, no_bytecode = sys.path, list(sys.path), sys.argv, sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.argv = [program]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        path[:] = entries
        sys.path, sys.argv, sys.dont_write_bytecode = path, arguments, no_bytecode


def _forget_modules_of(folder: str, before: set[str]) -> None:
    imported = {name: module for name, module in sys.modules.items() if name not in before}
    local = {name for name, module in imported.items() if folder in _folders_holding(module)}
    for name in imported:
        if name.partition(".")[0] in local and not name.startswith(_PREFIX):
            sys.modules.pop(name, None)


def _folders_holding(module: ModuleType) -> set[str]:
    spec = getattr(module, "__spec__", None)
    places = getattr(spec, "submodule_search_locations", None) or [getattr(spec, "origin", None) or ""]
    return {os.path.dirname(place) for place in places}


def import_target(target: TargetText) -> ModuleType:
    """The module that a target names, run afresh where it is a file.

    Raises UsageError where there is no such module, TargetError where importing it fails.
    """
    return _import_file(target.origin) if target.is_file else _import_dotted(target.origin)


def _import_file(path: str) -> ModuleType:
    name = _module_name(os.path.abspath(path))
    spec = importlib.util.spec_from_file_location(name, os.path.abspath(path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _user_import(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: str) -> str:
    """A name that is no other module's: the same for the same file, and without anything of the machine in it."""
    plain = _PREFIX + re.sub(r"\W", "_", Path(path).stem)
    name, count = plain, 1
    while name in sys.modules and sys.modules[name].__file__ != path:
        count += 1
        name = f"{plain}_{count}"
    return name


def _import_dotted(name: str) -> ModuleType:
    with _user_import(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not _is_or_holds(error.name, name):
                raise
            missing = str(error.name)
    raise UsageError(
        f"no module named {missing}" + (f", which {name} is in" if missing != name else ""),
        "a module that this Python can import, or a file.py",
        _instead_of_module(name),
    )


def _is_or_holds(missing: str | None, name: str) -> bool:
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _instead_of_module(name: str) -> str:
    holder, _, last = name.rpartition(".")
    if holder in sys.modules and hasattr(sys.modules[holder], last):
        return f"{holder}:{last}"
    file = Path(*name.split(".")).with_suffix(".py")
    if file.is_file():
        return str(file)
    return f"run it from the folder that holds {name.partition('.')[0]}, or in the environment where it is installed"


@contextmanager
def _user_import(shown: str) -> Iterator[None]:
    with user_code(
        f"importing {escape(shown)}",
        allowed="a file or module that this Python can import",
        advice=lambda error: _after_failed_import(error, shown),
    ):
        yield


def _after_failed_import(error: BaseException, shown: str) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"name it as a module of its package, {_dotted(shown)}, from the folder above the package"
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name} for this Python, {sys.executable}, or run fxgrad with the Python that has it"
    return f"python {shown}, which should fail alike" if shown.endswith(".py") else f'python -c "import {shown}"'


def _dotted(path: str) -> str:
    """The dotted name of a file by the packages (folders with ``__init__.py``) around it."""
    file = Path(path).resolve()
    parts = [file.stem]
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            break
        parts.insert(0, folder.name)
    return ".".join(parts)


def find_name(module: ModuleType, name: str, *, shown: str) -> object:
    """What a dotted name means in a module. Raises UsageError with the nearest names and the callables there are."""
    found: object = module
    missing = object()
    for part in name.split("."):
        with user_code(f"reading {name} of {escape(shown)}", allowed="a name that can be read", advice=_after_reading):
            found = getattr(found, part, missing)
        if found is missing:
            raise _unknown_name(module, name, shown)
    return found


def _after_reading(_: BaseException) -> str:
    return "another name, or see __getattr__ in the traceback"


def _unknown_name(module: ModuleType, name: str, shown: str) -> UsageError:
    names = public_callables(module)
    near = difflib.get_close_matches(name, names)
    if not names and hasattr(module, "__path__"):
        return _nothing_in_folder(module, name, shown)
    suggestion = " or ".join(f"{shown}:{other}" for other in near) or f"define {name} in it, or name another one of it"
    return UsageError(f"no {name} in {escape(shown)}", listed(names, first=near), suggestion)


def _nothing_in_folder(package: ModuleType, name: str, shown: str) -> UsageError:
    """A package that defines nothing, or a folder that Python takes for one."""
    folders = list(map(Path, package.__path__))
    inside = [f"{shown}.{module.name}" for module in pkgutil.iter_modules(map(str, folders)) if not module.ispkg]
    return UsageError(
        f"no {name} in the folder {escape(shown)}",
        FORMS,
        " or ".join(inside[:_MOST_MODULES]) or "a file.py, or a module of a package",
    )


def listed(names: Sequence[str], *, first: Sequence[str] = ()) -> str:
    """The names that can be chosen from, as a phrase: those in ``first`` before the others, and not all of many.

    >>> listed(["Net", "build"], first=["build"]), listed([])
    ('one of build, Net', 'a function or class of it; it defines none')
    """
    if not names:
        return "a function or class of it; it defines none"
    ordered = [*first, *(name for name in names if name not in first)]
    more = f" and {len(ordered) - _MOST_NAMES} more" if len(ordered) > _MOST_NAMES else ""
    return f"one of {', '.join(ordered[:_MOST_NAMES])}{more}"


def public_callables(module: ModuleType) -> list[str]:
    """The functions and classes of a module by name; of a file, only those that it defines itself."""
    own = module.__name__ if module.__name__.startswith(_PREFIX) else None
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or inspect.isclass(value))
        and own in (None, getattr(value, "__module__", None))
    ]

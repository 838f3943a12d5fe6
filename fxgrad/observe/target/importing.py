"""Parses a TARGET and imports what it names, as ``python file.py`` would, without a lasting change to the process."""

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
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape, escape_unprintable
from fxgrad.observe.record.frames import user_code
from fxgrad.observe.target.kept_forms import KeptForm, find_form

FORMS = (
    "file.py[:factory], package.module[:factory], a class such as torch.nn:LSTMCell, a model.pt of TorchScript, a "
    "model.pt2 of torch.export, or a saved trace.json"
)
DEFAULT_FACTORY = "build"

_ANY_FILE = "fxgrad report path/to/file.py:factory"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_PREFIX = "fxgrad_target_"
"""Of the names in sys.modules of the files that are imported: no module of the user's is called so."""
_MOST_NAMES = 8
_MOST_FILES = 3
_running: ContextVar[TargetText | None] = ContextVar("_running", default=None)


class TargetText(NamedTuple):
    """A parsed TARGET.

    ``origin`` is a path if ``is_file``, else the dotted name of a module; ``name`` follows the colon, None without one.
    ``form`` is that of a file which holds a program without its Python; None for all that can be imported.
    """

    origin: str
    name: str | None
    is_file: bool
    form: KeptForm | None = None

    def __str__(self) -> str:
        return self.origin if self.name is None else f"{self.origin}:{self.name}"


def parse_target(text: str) -> TargetText:
    r"""Split a TARGET into the file or module and the name in it. Nothing is imported.

    Raises UsageError where it has none of the forms, or names a file that is not there.

    >>> parse_target("torch.nn:LSTMCell")
    TargetText(origin='torch.nn', name='LSTMCell', is_file=False, form=None)
    >>> split_name(r"C:\models\lstm.py:build")
    ('C:\\models\\lstm.py', 'build')
    """
    if "://" in text:
        raise UsageError(f"{text!r} is a URL: fxgrad downloads nothing", FORMS, "download it and pass the file's path")
    origin, name = split_name(text)
    if name is not None and not _is_dotted_name(name):
        unnamed = f"{escape_unprintable(origin)}:{DEFAULT_FACTORY}, or omit the colon"
        raise UsageError(
            f"{text!r}: {name!r} after the colon is not a Python name", FORMS, unnamed if origin else _ANY_FILE
        )
    if _looks_like_file(origin):
        return _parse_file(origin, name)
    if not _is_dotted_name(origin):
        raise UsageError(f"{text!r} is neither a file nor a dotted module name", FORMS, _ANY_FILE)
    return TargetText(origin, name, is_file=False)


def split_name(text: str) -> tuple[str, str | None]:
    r"""Split a TARGET at its last colon; the colon of a Windows drive is part of the path.

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


def _looks_like_file(origin: str) -> bool:
    """Whether a path is meant. A folder with a dotted name may be a package; anything else that exists is a path."""
    is_path = origin.endswith(".py") or any(mark in origin for mark in "/\\")
    return is_path or os.path.isfile(origin) or (os.path.exists(origin) and not _is_dotted_name(origin))


def _parse_file(origin: str, name: str | None) -> TargetText:
    if os.path.isdir(origin):
        files = ", ".join(escape(str(file)) for file in _list_files(Path(origin))[:_MOST_FILES])
        raise UsageError(f"{escape(origin)} is a folder", FORMS, files or "a file.py in it")
    if not os.path.exists(origin):
        raise UsageError(f"no such file: {escape(origin)}", FORMS, _suggest_file(Path(origin)))
    if not os.path.isfile(origin):
        raise UsageError(f"{escape(origin)} is not a file", FORMS, "pass the .py file that builds the model")
    if origin.endswith(".py"):
        return TargetText(origin, name, is_file=True)
    form = find_form(origin)
    if name is not None:
        raise UsageError(
            f"{name!r} after {escape(origin)}, which holds one program of {form.name}",
            f"{escape(origin)} alone",
            f"omit :{name}; its forward is traced",
        )
    return TargetText(origin, None, is_file=True, form=form)


def _suggest_file(path: Path) -> str:
    files = {file.stem: file for file in _list_files(path.parent)}
    near = [str(files[stem]) for stem in difflib.get_close_matches(path.stem, files)]
    return ", ".join(map(escape, near)) or f"a path from here, {escape(os.getcwd())}"


def _list_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py")) if os.path.isdir(folder) else []


@contextmanager
def run_as_program(target: TargetText) -> Iterator[None]:
    """Give the user's code what ``python file.py`` gives it: its folder first on sys.path, its name in sys.argv.

    A dotted module gets the current folder, as ``python -m`` does. No ``__pycache__`` is written. Afterwards sys.path,
    sys.argv and sys.dont_write_bytecode are as before, and what was imported from a file's own folder has left
    sys.modules, because the next target may have another ``helper.py``. Nested use for the same target changes nothing.
    """
    if _running.get() == target:
        yield
        return
    folder = str(Path(target.origin).resolve().parent) if target.is_file else os.getcwd()
    before = set(sys.modules) if target.is_file and folder not in sys.path else None
    token = _running.set(target)
    try:
        with _replace_interpreter_state(folder, target.origin):
            yield
    finally:
        _running.reset(token)
        if before is not None:
            _forget_modules_of(folder, before)


@contextmanager
def _replace_interpreter_state(folder: str, program: str) -> Iterator[None]:
    path, entries, arguments, no_bytecode = sys.path, list(sys.path), sys.argv, sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.argv = [program]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        path[:] = entries  # the user's code may have changed the list, or put another in its place
        sys.path, sys.argv, sys.dont_write_bytecode = path, arguments, no_bytecode


def _forget_modules_of(folder: str, before: set[str]) -> None:
    """Remove from sys.modules what has come since `before` and lies in the folder, submodules of such packages too."""
    imported = {name: module for name, module in sys.modules.items() if name not in before}
    local = {name for name, module in imported.items() if folder in _find_folders(module)}
    for name in imported:
        if name.partition(".")[0] in local and not name.startswith(_PREFIX):
            sys.modules.pop(name, None)


def _find_folders(module: ModuleType) -> set[str]:
    """The folders that hold a module's file, or a package's folder."""
    spec = getattr(module, "__spec__", None)
    places = getattr(spec, "submodule_search_locations", None) or [getattr(spec, "origin", None) or ""]
    return {os.path.dirname(place) for place in places}


def import_target(target: TargetText) -> ModuleType:
    """Import the module that a target names. A file is run again each time.

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
    """A name for a file in sys.modules: always the same for the same file, no other module's, without its folder.

    Reports show it in the names of functions and classes, so that it must not differ between machines.
    """
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
            if not f"{name}.".startswith(f"{error.name}."):  # it was found, and imports something that is missing
                raise
            missing = str(error.name)
    raise UsageError(
        f"no module named {missing}" + (f", which {name} is in" if missing != name else ""),
        "a module that this Python can import, or a file.py",
        _suggest_module(name),
    )


def _suggest_module(name: str) -> str:
    holder, _, last = name.rpartition(".")
    if holder in sys.modules and hasattr(sys.modules[holder], last):
        return f"{holder}:{last}"
    file = Path(*name.split(".")).with_suffix(".py")
    if os.path.isfile(file):  # not file.is_file(), which raises where the name is too long
        return str(file)
    return (
        f"run it from the folder that contains {name.partition('.')[0]}, or in the environment where that is installed"
    )


@contextmanager
def _user_import(shown: str) -> Iterator[None]:
    with user_code(
        f"importing {escape(shown)}",
        allowed="a file or module that this Python can import",
        advice=lambda error: _suggest_after_import(error, shown),
    ):
        yield


def _suggest_after_import(error: BaseException, shown: str) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"pass it as a module of its package, {_find_dotted_name(shown)}, from the folder above the package"
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name} for this Python, {sys.executable}, or run fxgrad with the Python that has it"
    return f"python {shown}, which should fail the same way" if shown.endswith(".py") else f'python -c "import {shown}"'


def _find_dotted_name(path: str) -> str:
    """The dotted name of a file in the packages (folders with ``__init__.py``) around it."""
    file = Path(path).resolve()
    parts = [file.stem]
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            break
        parts.insert(0, folder.name)
    return ".".join(parts)


def find_name(module: ModuleType, name: str, *, shown: str) -> object:
    """Look up a dotted name in a module.

    Raises UsageError with the nearest names where it is missing, TargetError where reading it raises.
    """
    found: object = module
    missing = object()
    for part in name.split("."):
        with user_code(
            f"reading {name} of {escape(shown)}",
            allowed="a name that can be read",
            advice=lambda _: "use another name, or see __getattr__ in the traceback",
        ):
            found = getattr(found, part, missing)
        if found is missing:
            raise _unknown_name(module, name, shown)
    return found


def _unknown_name(module: ModuleType, name: str, shown: str) -> UsageError:
    names = list_callables(module)
    near = difflib.get_close_matches(name, names)
    if not names and hasattr(module, "__path__"):
        return _nothing_in_folder(module, name, shown)
    suggestion = " or ".join(f"{shown}:{other}" for other in near) or f"define {name} in it, or name another one in it"
    return UsageError(f"no {name} in {escape(shown)}", format_choices(names, first=near), suggestion)


def _nothing_in_folder(package: ModuleType, name: str, shown: str) -> UsageError:
    """The error where a name is missing in a package that defines nothing, or in a folder that Python takes for one."""
    folders = list(map(Path, package.__path__))
    inside = [f"{shown}.{module.name}" for module in pkgutil.iter_modules(map(str, folders)) if not module.ispkg]
    return UsageError(
        f"no {name} in the folder {escape(shown)}",
        FORMS,
        " or ".join(inside[:_MOST_FILES]) or "a file.py, or a module of a package",
    )


def format_choices(names: Sequence[str], *, first: Sequence[str] = ()) -> str:
    """The names to choose from as a phrase, those in `first` before the others, 8 at most.

    >>> format_choices(["Net", "build"], first=["build"]), format_choices([])
    ('one of build, Net', 'a function or class in it; it defines none')
    """
    if not names:
        return "a function or class in it; it defines none"
    ordered = [*first, *(name for name in names if name not in first)]
    more = f" and {len(ordered) - _MOST_NAMES} more" if len(ordered) > _MOST_NAMES else ""
    return f"one of {', '.join(ordered[:_MOST_NAMES])}{more}"


def list_callables(module: ModuleType) -> list[str]:
    """The names of the public functions and classes of a module; of a file, only of those that it defines itself."""
    own = module.__name__ if module.__name__.startswith(_PREFIX) else None
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or inspect.isclass(value))
        and own in (None, getattr(value, "__module__", None))
    ]


def refuse_emulated_device(text: str) -> None:
    """Refuse a TARGET that cannot run on an emulated device, because its operations run outside of Python."""
    form = parse_target(text).form
    if form is not None:
        raise UsageError(
            f"{form.name} on an emulated device",
            "modules in Python",
            "--device cpu or --device meta; or trace the model that it was made from",
        )

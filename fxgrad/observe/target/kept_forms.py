"""Forms in which a program is kept in a file of its own, without the Python that it was written in.

What a file is, is read from the names of its members: nothing is unpickled, and no code of the file's runs before that is
known. One function per form makes the model.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape, quote_code
from fxgrad.observe.record.frames import format_message, user_code
from fxgrad.observe.target.exported_files import Loaded, load_exported, opens_file

_PICKLE = b"\x80"
"""How a pickle begins, as ``torch.save`` wrote them before torch 1.6; since then it writes a zip archive around one."""


class KeptForm(NamedTuple):
    """A form: what it is called, and what makes the model of a file's path and the device to load it onto.

    With the model come the positional and the keyword arguments that are kept with it. ``has_mode`` says whether it can be
    put into training or evaluation mode.
    """

    name: str
    load: Callable[[str, str | None], Loaded]
    has_mode: bool = True


def find_form(path: str) -> KeptForm:
    """The form that a file is kept in. Raises UsageError where it has none, as what ``torch.save`` wrote has not."""
    members = _list_members(path)
    if "constants.pkl" in members:  # as torch/serialization.py, _is_torchscript_zip
        return KeptForm("TorchScript", load_torchscript)
    if "archive_format" in members:  # as torch/export/pt2_archive/_package.py, is_pt2_package
        return KeptForm("torch.export", load_exported, has_mode=False)
    if "data.pkl" in members or _begins_as_pickle(path):
        raise UsageError(
            f"{escape(path)} is a pickle, as torch.save writes: loading a model from it runs code that is in it",
            "a file.py, or an archive that torch.jit.save or torch.export.save wrote",
            "write def build(): return model, (x,) into a file.py, and load the state_dict there; or write the archive "
            "with torch.jit.script(model).save(...)",
        )
    raise UsageError(
        f"{escape(path)} is neither a Python file nor an archive of TorchScript or torch.export",
        "file.py[:factory], a model.pt that torch.jit.script(model).save(...) wrote, or a model.pt2 of torch.export.save",
        "pass the .py file that builds the model",
    )


def _list_members(path: str) -> frozenset[str]:
    """The names of the files in a zip archive, without the folder that PyTorch puts all of them into; {} of others."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.partition("/")[2] for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return frozenset()


def _begins_as_pickle(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == _PICKLE


def load_torchscript(path: str, device: str | None) -> Loaded:
    """The model in an archive of TorchScript, on the device on which it was saved, or on another.

    ``torch.jit.load`` reads it in C++, which makes objects of TorchScript alone: it runs no pickle of Python's
    (torch/csrc/jit/serialization/import.cpp). But loading runs ``__setstate__``, and TorchScript has operators that write
    files: code with one of their names in it is refused.
    """
    with _loading(path):
        writing = _find_file_operator(path)
    if writing is not None:
        raise UsageError(
            f"{escape(path)}, whose code has {quote_code(writing)} in it: running it could write a file",
            "a program without functions of TorchScript that open files",
            "load it yourself, if you trust it: def build(): return torch.jit.load(path), (x,) in a file.py",
        )
    with _loading(path), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # of torch.jit itself
            warnings.simplefilter("ignore", category)
        model: torch.nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return model, (), {}


def _loading(path: str) -> AbstractContextManager[object]:
    return user_code(
        f"loading {escape(path)}",
        allowed="an archive of TorchScript that torch.jit.load can read",
        advice=lambda error: _suggest_load(error, path),
    )


def _find_file_operator(path: str) -> str | None:
    """The name of an operator that opens a file, if it stands in the code of an archive, even as another's name."""
    names = {schema.name.rpartition("::")[2] for schema in torch._C._jit_get_all_schemas() if opens_file(schema)}
    reader = torch._C.PyTorchFileReader(path)
    sources = (reader.get_record(member).decode() for member in reader.get_all_records() if member.endswith(".py"))
    return next((word for source in sources for word in re.findall(r"\w+", source) if word in names), None)


def _suggest_load(error: BaseException, path: str) -> str:
    if "CUDA" in format_message(error):
        return "--device cpu, or --device meta"
    return f'python -c "import torch; torch.jit.load({os.path.basename(path)!r})", which should fail the same way'

"""What ``[tool.fxgrad]`` of the current folder's pyproject.toml says ``fxgrad check`` is to do."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, fields
from typing import Any

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape

_FILE = "pyproject.toml"
_TABLE = f"[tool.fxgrad] of {_FILE}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The TARGETs to check, and the codes to select and to ignore: what the command line does not give."""

    targets: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def read_configuration() -> Configuration:
    """The table ``[tool.fxgrad]``, empty where there is none.

    Raises UsageError for a file that is not TOML, and for a key or a value that has no meaning.
    """
    try:
        with open(_FILE, encoding="utf-8") as file:
            table = _parse_toml(file.read()).get("tool", {}).get("fxgrad", {})
    except FileNotFoundError:
        return Configuration()
    except (AttributeError, OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {_TABLE}: {escape(str(error))}", "a file of TOML, with a table of that name", "correct it"
        ) from error
    names = [field.name for field in fields(Configuration)]
    allowed = f"lists of texts: {', '.join(names)}"
    for key, value in table.items() if isinstance(table, dict) else [("itself", table)]:
        if key not in names or not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise UsageError(f"{_TABLE}: {escape(key)} = {escape(repr(value))}", allowed, 'ignore = ["FXG105"]')
    return Configuration(**{key: tuple(value) for key, value in table.items()})


def _parse_toml(text: str) -> dict[str, Any]:
    module = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table: dict[str, Any] = module.loads(text)
    return table

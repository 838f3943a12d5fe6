"""Whole models of every sort, for tests that hold something for any program: ``ZOO[name]() -> (model, args, kwargs)``.

Each public function of the parts is an entry, and its docstring says what is special. They are deterministic after
``torch.manual_seed``. Calling the model, and then backward from everything that it returns, works for each of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import zoo_functions
import zoo_memory
import zoo_modes
import zoo_networks
import zoo_values
from torch import nn
from zoo_nested import NESTED_WAYS, around

Entry = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


def _entries(part: ModuleType) -> dict[str, Entry]:
    functions = inspect.getmembers(part, inspect.isfunction)
    return {name: made for name, made in functions if made.__module__ == part.__name__ and not name.startswith("_")}


_PARTS = [_entries(part) for part in (zoo_networks, zoo_functions, zoo_memory, zoo_values, zoo_modes)]
_NESTED = {way.__name__: functools.partial(around, way) for way in NESTED_WAYS}
_PARTS.append(_NESTED)
ZOO: dict[str, Entry] = {name: made for part in _PARTS for name, made in part.items()}
assert len(ZOO) == sum(map(len, _PARTS)), "two entries have one name"

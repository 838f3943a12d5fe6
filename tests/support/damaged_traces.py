"""Saved traces with random damage: changed values, missing fields, entries moved, bytes replaced."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from typing import Any

import torch
from hooked_programs import PROGRAMS
from module_hooks import Notebook

import fxgrad
from fxgrad.errors import FxgradError

ODD = (
    *(None, -1, 0, 1, 2, 10**9, 2**63, 10**30, 1.5, "", "x", "\ud800", "\x1b[31m", "<b>&\"'\\N", "tensor", "none"),
    *("Module.register_backward_hook", "AccumulateGrad_0", "all", "any", [], {}, True, False, [0, 0], [None, 0]),
)
_LONGEST = 20_000


@functools.cache
def saved_traces() -> tuple[str, ...]:
    """The programs of `hooked_programs`, traced and saved: the small ones, so that damage hits."""
    return tuple(text for name in PROGRAMS for text in [_saved(name)] if text and len(text) < _LONGEST)


def _saved(name: str) -> str:
    notebook = Notebook()
    torch.manual_seed(0)
    try:
        model, args, kwargs = PROGRAMS[name](notebook)
        return fxgrad.trace(model, args, kwargs).to_json()
    except (FxgradError, RuntimeError):
        return ""
    finally:
        notebook.close()


def damaged(rng: random.Random) -> str:
    """One saved trace with some damage."""
    text = rng.choice(saved_traces())
    if rng.random() < 0.1:
        return _with_other_bytes(rng, text)
    document = json.loads(text)
    by_key: dict[str, list[Any]] = {}
    for key, value in _fields(document):
        by_key.setdefault(key, []).append(value)
    for _ in range(rng.randint(1, 4)):
        _damage(rng, document, by_key)
    return json.dumps(document)


def _with_other_bytes(rng: random.Random, text: str) -> str:
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 5)):
        place, length = rng.randrange(len(data)), rng.randint(0, 50)
        data[place : place + length] = rng.randbytes(rng.randint(0, 8))
    return data.decode("utf-8", "surrogateescape")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in _items(value):
        yield value, key
        yield from _places(inner)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _damage(rng: random.Random, document: Any, by_key: dict[str, list[Any]]) -> None:
    holder, key = rng.choice(list(_places(document)))
    kind = rng.random()
    if kind < 0.55:
        holder[key] = _other(rng, key, holder[key], by_key)
    elif kind < 0.65:
        del holder[key]
    elif isinstance(holder, dict):
        holder[key] = _other(rng, key, holder[key], by_key)
    elif kind < 0.9:
        holder.insert(key, json.loads(json.dumps(rng.choice(holder))))
    else:
        rng.shuffle(holder)


def _other(rng: random.Random, key: Any, value: Any, by_key: dict[str, list[Any]]) -> Any:
    """Mostly what stands under the same key elsewhere: that is loaded more often than nonsense is."""
    if key in by_key and rng.random() < 0.75:
        return json.loads(json.dumps(rng.choice(by_key[key])))
    if type(value) is int and rng.random() < 0.8:
        return rng.randint(-1, 20)
    return rng.choice(ODD)

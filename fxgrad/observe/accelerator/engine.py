"""Brings errors that are raised during backward out of it alive.

The engine guards the stream of each node's device, and the guard of a backend made in Python is asked for its device
type when it is left (torch/csrc/acc/Module.cpp: exchangeStream, which may not throw). When it is left because a hook
raised, that call of Python code finds the error set, fails for that reason alone, and the process is aborted. So the
guard here takes the error off, and what wraps the engine raises it again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.variable import Variable

_taken: list[BaseException] = []

_slots = tuple(ctypes.c_void_p() for _ in range(3))
_references = tuple(ctypes.byref(slot) for slot in _slots)
_fetch = ctypes.pythonapi.PyErr_Fetch
_fetch.restype = None
_normalize = ctypes.pythonapi.PyErr_NormalizeException
_normalize.restype = None
_release = ctypes.pythonapi.Py_DecRef
_release.argtypes, _release.restype = [ctypes.c_void_p], None


def device_guard() -> Any:
    """A guard to register for PrivateUse1. (Made here because its base class is not in torch 2.9.)"""
    private_use = torch._C._autograd.DeviceType.PrivateUse1

    class Guard(torch._C._acc.DeviceGuard):
        def type_(self) -> Any:
            _fetch(*_references)  # before anything else: with an error set, no other call would succeed
            if _slots[0].value is not None:
                _take_error()
            return private_use

    return Guard()


def _take_error() -> None:
    """Keep the error that `_fetch` has put into the slots: type, value and traceback, each with a reference to it."""
    _normalize(*_references)
    value, traceback = (ctypes.cast(slot, ctypes.py_object).value if slot.value else None for slot in _slots[1:])
    if isinstance(value, BaseException):
        _taken.append(value.with_traceback(traceback))
    for slot in _slots:
        _release(slot)


def taken_error() -> BaseException | None:
    """The error that was taken off since the last call, None where there is none."""
    error = _taken[-1] if _taken else None
    _taken.clear()
    return error


class Engine:
    """Stands before autograd's engine; python_engine.cpp finds no error to raise where the guard has taken it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run_backward(self, *args: Any, **kwargs: Any) -> Any:
        """As the engine's, and raises what was raised in it."""
        _taken.clear()
        try:
            return self._engine.run_backward(*args, **kwargs)
        except SystemError:
            error = taken_error()
            if error is None:
                raise
        raise error


def replacements() -> Iterator[tuple[Any, str, object]]:
    """What to put in the place of what, while a device is emulated."""
    yield Variable, "_execution_engine", Engine(Variable.__dict__["_execution_engine"])

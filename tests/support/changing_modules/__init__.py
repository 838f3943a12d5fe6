"""Modules whose forward changes what it can reach: one small change each, by name, to be composed into models."""

from changing_modules import attributes, tensors  # noqa: F401  (each adds its changes to the table)
from changing_modules.making import CHANGES, GLOBAL, Changing, Stop, ignored
from changing_modules.process import DispatchMode, FunctionMode

__all__ = ["CHANGES", "GLOBAL", "Changing", "DispatchMode", "FunctionMode", "Stop", "ignored"]

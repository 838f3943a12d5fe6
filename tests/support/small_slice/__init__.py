"""A small slice of the oracles: programs that between them use every rule of `fxgrad.predict`.

Each is a function that predicts, runs backward for real, and returns how the two compare.
"""

from small_slice import functions, modules  # noqa: F401  (each adds its programs to the table)
from small_slice.parts import SLICE

__all__ = ["SLICE"]

"""Programs to probe hooks in: each makes a model and its arguments, with the hooks that are there already.

`PROGRAMS` has them by name.
"""

from hooked_programs import (  # noqa: F401  (each adds its programs to the table)
    arguments_and_results,
    hooks_and_checkpoints,
    identities_and_changes,
    layers,
)
from hooked_programs.making import PROGRAMS, around, inner, leaf

__all__ = ["PROGRAMS", "around", "inner", "leaf"]

"""Programs to suppose hooks in: each makes a model and its arguments, with the hooks that are there already.

`PROGRAMS` has them by name. `INEXACT` names those whose records do not tell everything about the graph with a full
hook, and what the answer says about that.
"""

from hooked_programs import (  # noqa: F401  (each adds its programs to the table)
    arguments_and_results,
    hooks_and_checkpoints,
    identities_and_changes,
    layers,
)
from hooked_programs.making import PROGRAMS, around, inner, leaf

__all__ = ["INEXACT", "PROGRAMS", "around", "inner", "leaf"]

INEXACT = {
    "identity_in_a_residual": "returned a tensor that was there before",
    "same_tensor_as_keyword": "is a positional argument as well",
    "self_attention": "are one tensor",
    "transformer_layer": "are one tensor",
    "transformer_decoder": "are one tensor",
    "one_tensor_twice_in": "are one tensor",
    "one_tensor_twice_out": "is in the result more than once",
    "one_tensor_inside_the_result": "is in the result more than once",
    "unused_result_of_one_call": "on which no root depends without it",
    "unused_second_result": "on which no root depends without it",
    "unused_argument_with_history": "on which no root depends without it",
    "unused_result_with_hooks": "on which no root depends without it",
    "stale_view": "is the grad_fn of a view whose base was changed in place",
    "base_and_stale_view": "is the grad_fn of a view whose base was changed in place",
}

"""The rules, FXG101 and on: what a reader of a backward graph must know, as explanations made from records.

A rule is one small function from a `Subject`, a hook at one owner with all its sites there, to explanations. It
speaks only where its condition is met in the records. A code keeps its meaning for good.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Explanation
from fxgrad.graph.text import escape
from fxgrad.rules.asked_for import inputs_leave_the_hook_out
from fxgrad.rules.attachment import legacy_hook_sits_on_a_node, node_belongs_to_another_module
from fxgrad.rules.calls import module_is_called_several_times, removed_hook_still_fires
from fxgrad.rules.checkpoints import checkpoint_calls_the_leafs_hook_again, checkpoint_runs_the_module_again
from fxgrad.rules.firing import hook_fires_before_the_module_is_done, hook_never_fires
from fxgrad.rules.full_hooks import (
    full_hook_misses_tensors,
    inplace_error_help,
    legacy_hook_beside_full_hooks,
    mixed_hooks_help,
    module_refuses_the_other_kind,
)
from fxgrad.rules.holding import hook_keeps_a_graph_alive
from fxgrad.rules.in_place import tensor_hook_stays_behind
from fxgrad.rules.kernels import kernel_decides_the_node
from fxgrad.rules.no_gradient import (
    nothing_requires_grad,
    parameter_gets_no_gradient,
    parameter_is_frozen,
    parameter_is_not_used,
    tensor_is_no_leaf,
)
from fxgrad.rules.overwritten import overwritten_help, saved_tensor_is_overwritten, second_backward_help
from fxgrad.rules.page import Page
from fxgrad.rules.pages import PAGES
from fxgrad.rules.reading import hook_reads_grad_too_early
from fxgrad.rules.returns import hook_may_return_a_value, must_return, number_of_values_help
from fxgrad.rules.subject import Subject, subjects
from fxgrad.rules.symbolic_tracing import symbolic_trace_fails, symbolic_trace_loses_the_hook
from fxgrad.rules.tools import (
    compiled_module_may_pass_the_hook_by,
    compiled_regions_show_no_modules,
    script_modules_take_no_hooks,
    scripted_hooks_help,
)

__all__ = [
    "codes",
    "describe",
    "explain",
    "explain_error",
    "inplace_error_help",
    "must_return",
    "nothing_requires_grad",
    "page",
]

_RULES: tuple[Callable[[Subject], Iterator[Explanation]], ...] = (
    legacy_hook_sits_on_a_node,
    kernel_decides_the_node,
    node_belongs_to_another_module,
    hook_never_fires,
    hook_fires_before_the_module_is_done,
    full_hook_misses_tensors,
    legacy_hook_beside_full_hooks,
    hook_may_return_a_value,
    removed_hook_still_fires,
    module_is_called_several_times,
    tensor_hook_stays_behind,
    hook_reads_grad_too_early,
    inputs_leave_the_hook_out,
    checkpoint_runs_the_module_again,
    checkpoint_calls_the_leafs_hook_again,
    hook_keeps_a_graph_alive,
    symbolic_trace_loses_the_hook,
    compiled_module_may_pass_the_hook_by,
)
"""In the order of their codes, in which a hook's explanations appear."""

_GRAPH_RULES: tuple[Callable[[BackwardGraph], Iterator[Explanation]], ...] = (
    module_refuses_the_other_kind,
    parameter_gets_no_gradient,
    tensor_is_no_leaf,
    parameter_is_frozen,
    parameter_is_not_used,
    saved_tensor_is_overwritten,
    symbolic_trace_fails,
    script_modules_take_no_hooks,
    compiled_regions_show_no_modules,
)
"""About no hook."""

_ERROR_RULES = (
    inplace_error_help,
    mixed_hooks_help,
    number_of_values_help,
    overwritten_help,
    second_backward_help,
    scripted_hooks_help,
)


def explain(graph: BackwardGraph) -> tuple[Explanation, ...]:
    """Answer what the rules have to say about a graph.

    A finding that holds for several calls of a module is told once for each hook and module, with the site that
    fires first. Hooks come in the order of their first site, each hook's findings in the order of their codes; last
    come findings that are about no hook.
    """
    found = [told for subject in subjects(graph) for rule in _RULES for told in rule(subject)]
    return (*found, *(told for rule in _GRAPH_RULES for told in rule(graph)))


def explain_error(message: str) -> Explanation | None:
    """Explain an error message of PyTorch's about backward hooks, raised by forward or backward; None for others.

    >>> told = explain_error("Cannot use both regular backward hooks and full backward hooks on a single Module.")
    >>> told.code if told else None
    'FXG108'
    >>> explain_error("shape mismatch") is None
    True
    """
    return next((told for rule in _ERROR_RULES if (told := rule(message)) is not None), None)


def codes() -> tuple[str, ...]:
    """Every rule's code, in order.

    >>> codes()[0]
    'FXG101'
    """
    return tuple(PAGES)


def describe(code: str) -> str:
    """A rule's page as text: what happens, why, an example that runs, what to do. See `page` for errors.

    >>> print(describe("fxg101").splitlines()[0])
    FXG101  A non-full backward hook sits on one autograd node
    """
    return str(page(code))


def page(code: str) -> Page:
    """A rule's page; upper and lower case are the same.

    Raises `UsageError` for a code that no rule has, with the nearest ones.
    """
    found = PAGES.get(code.strip().upper())
    if found is None:
        near = difflib.get_close_matches(code.strip().upper(), PAGES, n=3) or list(PAGES)[:3]
        raise UsageError(
            f"no rule has the code {escape(code)}",
            f"one of {', '.join(PAGES)}",
            f"the nearest: {', '.join(near)}",
        )
    return found

"""The rules, FXG101 and on: what a reader of a backward graph must know, as explanations made from records.

Each module of a family (``fxg1_…`` hooks, ``fxg2_…`` gradients, ``fxg3_…`` other tools) holds its rules beside their
pages, and lists them in ``RULES``. A rule speaks only where its condition is met in the records.
"""

from __future__ import annotations

import difflib

from msgspec.structs import replace

from fxgrad.collection import pause_collection
from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Explanation
from fxgrad.graph.text import escape
from fxgrad.rules import (
    fxg1_attachment,
    fxg1_calls,
    fxg1_firing,
    fxg1_full_hooks,
    fxg1_hook_code,
    fxg1_hook_returns,
    fxg2_functions,
    fxg2_gradients,
    fxg2_saved_tensors,
    fxg2_training,
    fxg3_tools,
)
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.silenced import find_silenced
from fxgrad.rules.subject import list_subjects

_FAMILIES = (
    fxg1_attachment,
    fxg1_calls,
    fxg1_firing,
    fxg1_full_hooks,
    fxg1_hook_code,
    fxg1_hook_returns,
    fxg2_functions,
    fxg2_gradients,
    fxg2_saved_tensors,
    fxg2_training,
    fxg3_tools,
)
_RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in sorted((rule for family in _FAMILIES for rule in family.RULES), key=lambda rule: rule.code)
}


ABOUT_NEXT_STEPS = ("FXG301",)
"""Rules whose infos are about what a program may do with the model next: said only to who asks, as every program may."""


@pause_collection()
def explain(graph: BackwardGraph, *, unasked: bool = False) -> tuple[Explanation, ...]:
    """Answer what the rules have to say about a graph; ``unasked`` leaves out the rules about what may come next.

    A finding that holds for several calls of a module is given once for each hook and module, with the site that fires
    first. Hooks come in the order of their first site, each hook's findings in the order of their codes; findings that
    are about no hook come last, in the order of their codes. Nothing is said about hooks of PyTorch's own. That a hook never
    fires is an info where the finding about parameters without gradient tells of it.
    """
    rules = _RULES.values()
    silenced = {each.subject.key for each in find_silenced(graph, fxg2_gradients.list_reasons(graph))}
    about_hooks = [
        replace(explanation, severity="info")
        if explanation.code == "FXG104" and subject.key in silenced
        else explanation
        for subject in list_subjects(graph)
        if not subject.hook.by_torch
        for rule in rules
        for find in rule.hook_rules
        for explanation in find(subject)
    ]
    about_graph = [explanation for rule in rules for find in rule.graph_rules for explanation in find(graph)]
    return tuple([found for found in (*about_hooks, *about_graph) if not (unasked and _is_about_next_steps(found))])


def _is_about_next_steps(found: Explanation) -> bool:
    return found.code in ABOUT_NEXT_STEPS and found.severity == "info"


def explain_error(message: str) -> Explanation | None:
    """Explain an error message of PyTorch's about backward hooks, raised by forward or backward; None for others.

    >>> explanation = explain_error("Cannot use both regular backward hooks and full backward hooks on a single Module.")
    >>> explanation.code if explanation else None
    'FXG108'
    >>> explain_error("shape mismatch") is None
    True
    """
    answers = (find(message) for rule in _RULES.values() for find in rule.error_rules)
    return next((explanation for explanation in answers if explanation is not None), None)


def list_codes() -> tuple[str, ...]:
    """Every rule's code, in order.

    >>> list_codes()[0]
    'FXG101'
    """
    return tuple(_RULES)


def find_page(code: str) -> Page:
    """A rule's page; upper and lower case are the same. As text it says what happens, why, and what to do.

    Raises `UsageError` for a code that no rule has, with the nearest ones.

    >>> print(str(find_page("fxg101")).splitlines()[0])
    FXG101  A non-full backward hook sits on one autograd node
    """
    wanted = code.strip().upper()
    if wanted not in _RULES:
        near = difflib.get_close_matches(wanted, _RULES, n=3) or list(_RULES)[:3]
        raise UsageError(
            f"no rule has the code {escape(code)}",
            f"one of {', '.join(_RULES)}",
            f"the nearest: {', '.join(near)}",
        )
    return _RULES[wanted].page

"""A hook that keeps a graph alive: FXG116."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, Held
from fxgrad.graph.text import escape, join_words, name_hook_function, name_module, quote_code
from fxgrad.rules.subject import Subject


def hook_keeps_a_graph_alive(subject: Subject) -> Iterator[Explanation]:
    """FXG116: a hook's function holds a tensor that has a graph behind it."""
    held = subject.hook.holds
    if not held or not subject.hook.active:
        return
    if subject.hook.kind.is_module or _is_on_leaf(subject):
        yield _while_registered(subject, held)
        return
    circular = [each for each in held if _leads_back(subject, each)]
    if circular:
        yield _circle(subject, circular)


def _is_on_leaf(subject: Subject) -> bool:
    names = subject.hook.targets or (subject.path,)
    variables = [subject.graph.variables_by_name.get(name) for name in names]
    return any(variable is not None and variable.is_leaf for variable in variables)


def _leads_back(subject: Subject, held: Held) -> bool:
    """Whether the hook is on a node of the graph behind the tensor that its function holds."""
    nodes = [placed.node.id for placed in subject.placed]
    return held.node is not None and any(subject.graph.path(held.node, node) is not None for node in nodes)


def _names(held: Sequence[Held]) -> str:
    return join_words(dict.fromkeys(quote_code(each.name) for each in held))


def _while_registered(subject: Subject, held: Sequence[Held]) -> Explanation:
    inside = all(each.is_inside for each in held)
    owner = name_module(subject.path) if subject.hook.kind.is_module else quote_code(subject.path)
    until = ", or what it holds is emptied" if inside else ""
    return Explanation(
        code="FXG116",
        severity="info" if inside else "warning",
        headline=f"{name_hook_function(subject.hook)} keeps a graph alive by {_names(held)}",
        because=(
            f"Its function refers to {_names(held)}, with a graph and its saved tensors behind. The hook is on {owner}, "
            f"which lives on: so does the graph, until the handle is removed{until}. (torch/utils/hooks.py)"
        ),
        fix=f"let the function hold {_names(held)} detached, or what it needs of it; or remove the handle after backward",
        site=subject.sites[0],
    )


def _circle(subject: Subject, held: Sequence[Held]) -> Explanation:
    return Explanation(
        code="FXG116",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} keeps its own graph alive by {_names(held)}",
        because=(
            f"Its function refers to {_names(held)}, whose graph has the node that the hook is on, "
            f"{escape(subject.placed[0].node.label)}. The node holds the hook, in C++: no garbage collector sees this "
            "circle, and the graph is not freed before the handle is removed. (torch/csrc/autograd/python_hook.cpp)"
        ),
        fix=f"let the function hold {_names(held)} detached, or what it needs of it; or remove the handle after backward",
        site=subject.placed[0].site,
    )

"""How backward will be called: the user's choice, checked and put into the graph."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardCall, BackwardGraph
from fxgrad.graph.lookup import find_input, find_root
from fxgrad.graph.records import BACKWARD_APIS, EARLIER_CALLS
from fxgrad.graph.text import format_path


def set_backward_call(
    graph: BackwardGraph,
    *,
    inputs: Sequence[str] | None = None,
    api: str = "backward",
    roots: Sequence[str] | None = None,
    after: str | None = None,
) -> BackwardGraph:
    """Return the graph with the chosen roots and ``info.backward``; its sites must be predicted again.

    `inputs`, `roots` are names of tensors, `api` and `after` as in `BackwardCall`. Raises UsageError for what PyTorch
    refuses, and for unknown names.
    """
    _check_choice("api", api, BACKWARD_APIS)
    _check_choice("after", after, (None, *EARLIER_CALLS))
    _check_inputs(inputs, api)
    places = None if inputs is None else [find_input(graph, name) for name in inputs]
    started = graph if roots is None else _start_from(graph, roots)
    call = BackwardCall(
        None if places is None else tuple([(each.node, each.slot) for each in places if each.node is not None]),
        api,
        after,
        tuple([each.name for each in places or ()]),
        tuple([each.name for each in places or () if each.node is None]),
        graph.info.backward.roots if roots is None else tuple(roots),
    )
    return replace(started, info=replace(started.info, backward=call))


def _check_choice(name: str, given: str | None, allowed: Sequence[str | None]) -> None:
    if given not in allowed:
        raise UsageError(f"{name}={given!r}", " or ".join(map(repr, allowed)), f"leave {name} out for the usual call")


def _check_inputs(inputs: Sequence[str] | None, api: str) -> None:
    if inputs is not None and not inputs:
        raise UsageError(
            "empty inputs", "at least one: PyTorch raises for none", "leave inputs out for a backward to every leaf"
        )
    if api == "grad" and inputs is None:
        raise UsageError(
            "autograd.grad without inputs", "the tensors whose gradients it shall return", "inputs=[names]"
        )


def _start_from(graph: BackwardGraph, names: Sequence[str]) -> BackwardGraph:
    if not names:
        raise UsageError("empty roots", "at least one tensor that backward starts from", "leave roots out for all")
    roots = tuple([find_root(graph, name) for name in names])
    rule = ", ".join(format_path(root.path) for root in roots) + ", as asked for"
    several = f": {len(roots)} tensors, as if backward(outputs, ones) were called" if len(roots) > 1 else ""
    return replace(graph, roots=roots, info=replace(graph.info, root_rule=rule + several))

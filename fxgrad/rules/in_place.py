"""A tensor hook, and a change in place of its tensor: FXG112."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Explanation, FxNode, HookKind
from fxgrad.graph.text import escape, name_hook_function
from fxgrad.rules.operations import operation_name, place
from fxgrad.rules.subject import Subject


def tensor_hook_stays_behind(subject: Subject) -> Iterator[Explanation]:
    """FXG112: the tensor of a hook is changed in place after the hook was registered."""
    if subject.hook.kind is not HookKind.TENSOR or not subject.hook.active:
        return
    change = next(_changes_after(subject), None)
    if change is None:
        return
    silent = subject.sites[0].fires is False
    yield Explanation(
        code="FXG112",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} {_headline(change, silent=silent)}",
        because=_because(subject, change, silent=silent),
        fix=f"register it after {operation_name(change)}, or use an operation that is not in place there",
        site=subject.sites[0],
    )


def _changes_after(subject: Subject) -> Iterator[FxNode]:
    """The operations that gave the tensor, or the tensor that it is a view of, another grad_fn after the registration.

    Those that make no node (under no_grad, through detach) do not: the number is autograd's, of the next node.
    """
    registered = subject.hook.registered_nr
    if registered is None or subject.path not in subject.graph.fx_nodes_by_name:
        return
    for fx_node in subject.index.data_flow.changers_of(subject.path):
        window = fx_node.sequence_window
        if window is not None and registered <= window[0] < window[1]:
            yield fx_node


def _headline(change: FxNode, *, silent: bool) -> str:
    name = operation_name(change)
    if silent:
        return f"stays on the node that its tensor had before {name} in place"
    return f"gets the gradient of what its tensor was before {name} in place"


def _because(subject: Subject, change: FxNode, *, silent: bool) -> str:
    placed = subject.placed
    stays = f"on {escape(placed[0].node.label)}" if placed else "on the node that it was on"
    what = "which backward does not run" if silent else "and sees the gradient there, before the change"
    return (
        f"{place(change.source)}, {operation_name(change)} changes the tensor, or one that shares its memory, after "
        f"the hook was registered, and the tensor gets a new grad_fn. The hook stays {stays}, {what}. "
        "(torch/csrc/autograd/variable.cpp, rebase_history)"
    )

"""In-place operations that raise once a full hook has replaced a tensor by a view that a custom Function returned.

``check_inplace`` (torch/csrc/autograd/VariableTypeUtils.h) refuses to change such a view, or a view of it. Reading its
grad_fn raises once its memory was changed in any other way (``handle_view_on_rebase``, torch/csrc/autograd/variable.h).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, FxNode, ModuleCall, TensorRef
from fxgrad.graph.names import name_call
from fxgrad.graph.text import escape
from fxgrad.probe.members import argument_members, has_only_tensors, result_members
from fxgrad.probe.memory import Change, Memory
from fxgrad.probe.sentences import line_text

_VIEW = "a full hook makes that a view which PyTorch lets no one change"


class Refusal(NamedTuple):
    """Why PyTorch would raise, and under which condition it would not, where there is one."""

    reason: str
    unless: str | None = None


class _Exposed(NamedTuple):
    """A tensor that a full hook replaces by a view.

    ``what`` it is to the call; ``place`` is the view's in the graph; ``has_twin``: the program can also get hold of the
    tensor itself, and the records do not tell which of the two it uses
    """

    what: str
    ref: TensorRef
    place: tuple[int | None, int]
    has_twin: bool


def refused_change(graph: BackwardGraph, calls: Sequence[ModuleCall]) -> Refusal | None:
    """The first operation that certainly raises; `calls` are those that got the hook's nodes, out of `graph`."""
    for call, exposed, change in _harmful(graph, calls, certain=True):
        reason = f"forward raises RuntimeError: {_change_text(graph, call, exposed.what, change)}, and {_VIEW}"
        return Refusal(reason, _unless_text(graph, call, exposed.what) if exposed.has_twin else None)
    return None


def doubtful_changes(graph: BackwardGraph, calls: Sequence[ModuleCall]) -> Iterator[str]:
    """Operations that raise only if the view is used after them in a way that the graph does not show."""
    for call, exposed, change in _harmful(graph, calls, certain=False):
        text = _change_text(graph, call, exposed.what, change)
        yield f"{text}: if it is used after that, forward raises RuntimeError, since {_VIEW}"


def changes_looked_at(graph: BackwardGraph, calls: Sequence[ModuleCall]) -> Iterator[str]:
    """Arguments that `calls` change in another way than as they are, and whose grad_fn a non-full hook looks at.

    To warn about the hook (``Module._maybe_warn_non_full_backward_hook``), where all is tensors. Looking at a view whose
    base was changed makes a node.
    """
    memory = Memory(graph)
    for call in calls if memory.has_changes else ():
        for position, ref in argument_members(call) if has_only_tensors(call) else ():
            for change in memory.changes(ref, where=partial(_is_inside, call)):
                if ref.requires_grad and not (change.is_of_itself and change.fx_node.grad_enabled):
                    text = _change_text(graph, call, f"argument {position}", change)
                    yield f"{text}, and the hook makes PyTorch look at its grad_fn: that may make a node, or raise"


def _harmful(
    graph: BackwardGraph, calls: Sequence[ModuleCall], *, certain: bool
) -> Iterator[tuple[ModuleCall, _Exposed, Change]]:
    memory, uses = Memory(graph), _Uses(graph)
    for call in calls if memory.has_changes else ():
        for exposed, change in _changes_at(memory, call):
            raises = _is_refused(exposed.ref, change)
            raises = raises or (not exposed.has_twin and uses.comes_after(exposed, change.fx_node))
            if raises == certain and (raises or exposed.ref.requires_grad):
                yield call, exposed, change


def _changes_at(memory: Memory, call: ModuleCall) -> Iterator[tuple[_Exposed, Change]]:
    inside, after = partial(_is_inside, call), partial(_is_after, call)
    for argument in _exposed_arguments(call):
        for change in memory.changes(argument.ref, where=inside):
            yield argument, change
    for result in _exposed_results(memory, call):
        for change in memory.changes(result.ref, where=after):
            yield result, change
    for argument in _exposed_arguments(call):
        for change in memory.changes(argument.ref, where=after) if _is_returned(memory, argument.ref, call) else ():
            yield argument._replace(has_twin=True), change


def _is_returned(memory: Memory, ref: TensorRef, call: ModuleCall) -> bool:
    """Whether an argument, or a view of it, is in the result, be it where a full hook does not see it."""
    return any(memory.are_shared(ref, result) for result in call.outputs)


def _exposed_arguments(call: ModuleCall) -> Iterator[_Exposed]:
    if call.full_hook is None or call.full_hook.input_positions is None:
        return
    members = argument_members(call)
    given = [_value(ref) for ref in call.inputs]
    direct = [_value(ref) for _, ref in members]
    for slot, (position, ref) in enumerate(members):
        is_hidden = given.count(_value(ref)) > direct.count(_value(ref))
        yield _Exposed(f"argument {position}", ref, (call.input_hook_node, slot), is_hidden)


def _exposed_results(memory: Memory, call: ModuleCall) -> Iterator[_Exposed]:
    if call.full_hook is None or call.full_hook.output_positions is None:
        return
    members = result_members(call)
    returned = [_value(ref) for ref in call.outputs]
    direct = [_value(ref) for _, ref in members]
    for slot, (position, ref) in enumerate(members):
        what = "the result" if ref.path == ("result",) else f"result {position}"
        has_twin = returned.count(_value(ref)) > direct.count(_value(ref)) or memory.may_be_older(ref, call)
        yield _Exposed(what, ref, (call.output_hook_node, slot), has_twin)


def _value(ref: TensorRef) -> tuple[str | None, int | None]:
    return ref.fx_node, ref.fx_index


def _is_inside(call: ModuleCall, fx_node: FxNode) -> bool:
    if call.id not in fx_node.modules or fx_node.sequence_window is None:
        return False
    return call.forward_start is None or fx_node.sequence_window[0] >= call.forward_start


def _is_after(call: ModuleCall, fx_node: FxNode) -> bool:
    if call.id in fx_node.modules or fx_node.sequence_window is None:
        return False
    return fx_node.sequence_window[0] >= call.sequence_window[1]


def _is_refused(ref: TensorRef, change: Change) -> bool:
    """Whether autograd records the change of the view itself; for a tensor without grad, whether it gets one by it."""
    fx_node = change.fx_node
    if not change.is_direct or not fx_node.grad_enabled or fx_node.sequence_window is None:
        return False
    makes_nodes = fx_node.sequence_window[0] < fx_node.sequence_window[1]
    return ref.requires_grad or (makes_nodes and (not fx_node.aliases or any(fx_node.aliases)))


class _Uses:
    """When each gradient of a node was used last, by sequence number; roots are used at the end."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._roots = {(root.node, root.slot) for root in graph.roots}
        self._last: dict[tuple[int, int], int] = {}
        for node in graph.nodes:
            for edge in node.edges:
                if edge.next_node is not None and node.sequence_nr is not None:
                    place = (edge.next_node, edge.input_nr)
                    self._last[place] = max(self._last.get(place, 0), node.sequence_nr)

    def comes_after(self, exposed: _Exposed, fx_node: FxNode) -> bool:
        """Whether a use of the view is recorded after what an fx node did."""
        node, slot = exposed.place
        if node is None or fx_node.sequence_window is None:
            return False
        return (node, slot) in self._roots or self._last.get((node, slot), -1) >= fx_node.sequence_window[1]


def _change_text(graph: BackwardGraph, call: ModuleCall, what: str, change: Change) -> str:
    function = escape(change.fx_node.target.rpartition(".")[2])
    changed = what if change.is_direct else f"the memory of {what}"
    called = escape(name_call(graph, call))
    return f"{changed} of {called} is changed in place by {function}{line_text(change.fx_node.source)}"


def _unless_text(graph: BackwardGraph, call: ModuleCall, what: str) -> str:
    return (
        f"{what} of {escape(name_call(graph, call))} is also to be had as it was before the hook replaced it: forward "
        "does not raise if that is what is changed"
    )

"""Which hooks each node lists, in which order, after the hook was put in.

A node runs its post-hooks in the order in which they were registered on it (torch/csrc/autograd/engine.cpp). What a
full hook registers comes first, because the node was made for it; non-full hooks are registered when a call ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, HookKind, ModuleCall, Node
from fxgrad.predict.firing import sort_by_end
from fxgrad.probe.moments import Step, moments

_FIRST, _UNTIMED = (-2, 0), (-1, 0)
_AFTER_ALL = 1_000_000_000


class _Entry(NamedTuple):
    """A hook in a node's list; ``time`` is when it was put there: which call ended then, and its rank in that call."""

    node: int
    time: tuple[int, int]
    hook: int


def relisted(before: BackwardGraph, after: BackwardGraph) -> tuple[Node, ...]:
    """The nodes of `after` with the hooks that they list; `before` says which ones each of them listed."""
    ends = {call.id: rank for rank, call in enumerate(sort_by_end(before.calls))}
    found: dict[int, list[_Entry]] = defaultdict(list)
    for entry in (*_full_hooks(after), *_legacy_hooks(after, ends), *_other_hooks(before, after, ends)):
        found[entry.node].append(entry)
    prehooks: dict[int, list[int]] = defaultdict(list)
    for node in before.nodes:
        for number in node.prehooks:
            prehooks[_place_of(after, number, node.id)].append(number)
    return tuple([_with_lists(node, found.get(node.id, []), prehooks.get(node.id, [])) for node in after.nodes])


def _with_lists(node: Node, entries: list[_Entry], prehooks: list[int]) -> Node:
    hooks = tuple([entry.hook for entry in sorted(entries, key=lambda entry: entry.time)])
    if hooks == node.hooks and tuple(prehooks) == node.prehooks:
        return node
    return replace(node, hooks=hooks, prehooks=tuple(prehooks))


def _full_hooks(after: BackwardGraph) -> Iterator[_Entry]:
    """``setup_output_hook`` runs the pre-hooks; the full hooks run at the inputs if any of these requires grad."""
    for call in after.calls:
        full_node = call.output_hook_node if _has_no_input_side(call) else call.input_hook_node
        kinds = {number: after.hooks[number].kind for number in call.hooks}
        for number, kind in kinds.items():
            if kind.is_full_pre and call.output_hook_node is not None:
                yield _Entry(call.output_hook_node, _FIRST, number)
        for number, kind in kinds.items():
            if kind.is_full and full_node is not None:
                yield _Entry(full_node, _FIRST, number)


def _has_no_input_side(call: ModuleCall) -> bool:
    return call.full_hook is None or call.full_hook.input_positions is None


def _legacy_hooks(graph: BackwardGraph, ends: dict[str, int]) -> Iterator[_Entry]:
    """What each call puts on the grad_fn of the first tensor of its result when it ends."""
    for call in graph.calls:
        tensor = call.legacy_tensor
        if tensor is None or tensor.node is None or tensor.is_leaf:
            continue
        for rank, number in enumerate(call.hooks):
            if graph.hooks[number].kind.is_legacy:
                yield _Entry(tensor.node, (ends[call.id], rank), number)


def _other_hooks(before: BackwardGraph, after: BackwardGraph, ends: dict[str, int]) -> Iterator[_Entry]:
    """The hooks that users registered on nodes; one of which it is not known when stays behind the one before it."""
    registered = _registration_times(before)
    legacy: dict[int, list[_Entry]] = defaultdict(list)
    for entry in sorted(_legacy_hooks(before, ends), key=lambda entry: entry.time):
        legacy[entry.node].append(entry)
    for node in before.nodes:
        time = _UNTIMED
        for number in node.hooks:
            kind = before.hooks[number].kind
            if kind.is_legacy:
                time = _taken(legacy[node.id], number) or time
            elif not (kind.is_full or kind.is_full_pre):
                time = registered.get(number, time)
                yield _Entry(_place_of(after, number, node.id), time, number)


def _taken(waiting: list[_Entry], hook: int) -> tuple[int, int] | None:
    """When a hook that a node lists was put there: by the first call that did so and was not taken yet."""
    for position, entry in enumerate(waiting):
        if entry.hook == hook:
            del waiting[position]
            return entry.time
    return None


def _registration_times(graph: BackwardGraph) -> dict[int, tuple[int, int]]:
    """Behind what the calls that had ended before put on the same node."""
    times: dict[int, tuple[int, int]] = {}
    ended = 0
    for moment in moments(graph):
        ended += moment.step is Step.END
        if moment.hook is not None:
            times[moment.hook.id] = (ended - 1, _AFTER_ALL)
    return times


def _place_of(after: BackwardGraph, hook: int, node: int) -> int:
    observed = after.hooks[hook].observed
    own = after.hooks[hook].kind in (HookKind.NODE, HookKind.NODE_PRE)
    return observed[0] if own and observed is not None else node

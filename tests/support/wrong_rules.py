"""Rules of prediction, each made wrong in one way: functions of the right one."""

from __future__ import annotations

from msgspec.structs import replace

from fxgrad.graph import TensorMeta
from fxgrad.graph.hook_kinds import HookMoment
from fxgrad.predict import engine, formulas

INPUT_SIDE, OUTPUT_SIDE = formulas.INPUT_SIDE, formulas.OUTPUT_SIDE


def always(value):
    return lambda right: lambda *args, **kwargs: value


def without_the_last(right):
    return lambda *args, **kwargs: right(*args, **kwargs)[:-1]


def reversed_(right):
    return lambda *args, **kwargs: right(*args, **kwargs)[::-1]


def every(status):
    """All statuses are this one."""
    return lambda right: lambda *args, **kwargs: (status,) * len(tuple(right(*args, **kwargs)))


def with_(**fields):
    """The record that the rule makes, with other fields."""
    return lambda right: lambda *args, **kwargs: replace(right(*args, **kwargs), **fields)


def on_the_node_before(right):
    def moved(hook, **where):
        return right(hook, **(where | {"node": max(where["node"] - 1, 0)}))

    return moved


def swapped_sides(right):
    other = {INPUT_SIDE: OUTPUT_SIDE, OUTPUT_SIDE: INPUT_SIDE}
    return lambda graph: {node: other[side] for node, side in right(graph).items()}


def counts_the_single_root(right):
    def counted(graph):
        dependencies, reached, behind = right(graph)
        for root in graph.roots:
            reached[root.node] = True
        return dependencies, reached, behind

    return counted


def oldest_first(right):
    def push(self, node):
        number = self._nodes[node].sequence_nr or 0
        engine.heapq.heappush(self._heap, (number, engine._Ready(node)))

    return push


def leaves_by_id(right):
    """Ties between leaves broken by their ids instead of as the heap leaves them."""
    return lambda self, other: self.node < other.node


def everything_executed(right):
    return lambda nodes, call: (bytearray(b"\x01") * len(nodes),) * 2


def executed_as_in_backward(right):
    return lambda nodes, call: (right(nodes, call)[0],) * 2


def meta_of_the_slot(right):
    return lambda simulation, node, edge, status: node.grad_outputs[0]


def dtype_of_the_slot(right):
    def meta(simulation, node, edge, status):
        found = right(simulation, node, edge, status)
        return replace(found, dtype=node.grad_outputs[0].dtype)

    return meta


def nothing_decides_alone(right):
    return property(lambda kind: False)


def prehooks_last(right):
    def at(self, node):
        called = list(right(self, node))
        hooks = self._hooks_at.get(node)
        early = [] if hooks is None else hooks.at(HookMoment.PRE_HOOK)
        return iter([*(number for number in called if number not in early), *early])

    return at


def post_accumulate_last(right):
    def at(self, node):
        called = list(right(self, node))
        hooks = self._hooks_at.get(node)
        early = [] if hooks is None else hooks.at(HookMoment.POST_ACCUMULATE)
        return iter([*(number for number in called if number not in early), *early])

    return at


def tensor_hooks_last(right):
    def at(self, node):
        called = list(right(self, node))
        hooks = self._hooks_at.get(node)
        early = [] if hooks is None else [hook.site for hook in hooks.tensor_hooks]
        return iter([*(number for number in called if number not in early), *(n for n in called if n in early)])

    return at


def ungrouped(right):
    return lambda hooks, sites: sorted(hooks, key=lambda hook: hook.hook)


def by_hook(right):
    return lambda numbers, listed, sites, ends: sorted(numbers, key=lambda number: -sites[number].hook.id)


def meta_of_what_is_not_differentiable(right):
    """What metadata says of a result of the node on the inputs that requires no grad."""

    def found(refs, path):
        ref = right(refs, path)
        return ref if ref is None or ref.requires_grad else replace(ref, meta=TensorMeta((), "float32", "cpu"))

    return found


def no_lists(right):
    return lambda node, needed: [edge.next_node is not None and bool(needed[edge.next_node]) for edge in node.edges]


def null_edges_too(right):
    return lambda node, needed: [True] * len(node.edges)


def first_call_only(right):
    return lambda self, hook: iter(list(right(self, hook))[:1])


def other_slot(right):
    return lambda self, hook: replace(right(self, hook), slot=0)


def ends_never(right):
    return lambda nodes, call: frozenset()

"""Which recorded operations change the memory of a value in place.

A view, the result of ``detach`` and the result of an in-place operation share the memory and the version counter of the
tensor they come from (torch/csrc/autograd/variable.h: ``DifferentiableViewMeta``; c10/core/TensorImpl.h:
``VariableVersion``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, FxNode, ModuleCall, TensorMeta, TensorRef, Value

_DETACH = "detach"


class Change(NamedTuple):
    """An operation that changed the memory of a value; ``is_direct``: the value itself or a differentiable view."""

    fx_node: FxNode
    is_direct: bool
    is_of_itself: bool = False


class Memory:
    """The values of a recorded forward, with those that share their memory."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._graph = graph
        self._rank = {fx_node.name: rank for rank, fx_node in enumerate(graph.forward)}
        self._sources: dict[Value, Value] = {}
        self._results: dict[Value, list[tuple[Value, bool]]] = defaultdict(list)
        self._changes: dict[Value, list[FxNode]] = defaultdict(list)
        for fx_node in graph.forward:
            self._note_aliases(fx_node)
            for value in _changed(fx_node):
                self._changes[value].append(fx_node)

    def _note_aliases(self, fx_node: FxNode) -> None:
        for index, source in enumerate(fx_node.aliases):
            if source is not None:
                result = Value(fx_node.name, index if len(fx_node.aliases) > 1 else None)
                self._sources[result] = source
                self._results[source].append((result, fx_node.target == _DETACH))

    @property
    def has_changes(self) -> bool:
        """Whether anything was changed in place."""
        return bool(self._changes)

    def changes(self, ref: TensorRef, *, where: Callable[[FxNode], bool]) -> Iterator[Change]:
        """The operations that changed the memory of a tensor of a module call, in order, out of those in question.

        A view of it that others than these made does not count as one: it was made before what replaces the tensor.
        """
        if ref.fx_node is None:
            return
        value = Value(ref.fx_node, ref.fx_index)
        found = {fx_node.name: Change(fx_node, is_direct=False) for fx_node in self._changing(self._sharing(value))}
        for fx_node in self._changing(self._views(value, where)):
            found[fx_node.name] = Change(fx_node, is_direct=True, is_of_itself=value in _changed(fx_node))
        in_question = [change for change in found.values() if where(change.fx_node)]
        yield from sorted(in_question, key=lambda change: self._rank[change.fx_node.name])

    def are_shared(self, first: TensorRef, second: TensorRef) -> bool:
        """Whether two tensors of a module call share their memory."""
        values = [None if ref.fx_node is None else Value(ref.fx_node, ref.fx_index) for ref in (first, second)]
        origins = [None if value is None else self._origin(value) for value in values]
        return origins[0] is not None and origins[0] == origins[1]

    def may_be_older(self, ref: TensorRef, call: ModuleCall) -> bool:
        """Whether a result of a call may be a tensor that was there before it, changed in place or not."""
        if ref.fx_node is None:
            return False
        value: Value | None = Value(ref.fx_node, ref.fx_index)
        while value is not None and call.id in self._graph.fx_nodes_by_name[value.fx_node].modules:
            value = self._same_tensor(value)
        return value is not None

    def _same_tensor(self, value: Value) -> Value | None:
        """What a value that shares its memory may have been before: what has another shape is another tensor."""
        source = self._sources.get(value)
        return source if source is not None and self._meta(source) in (None, self._meta(value)) else None

    def _meta(self, value: Value) -> TensorMeta | None:
        """None for an argument or a parameter."""
        metas = self._graph.fx_nodes_by_name[value.fx_node].meta
        index = value.index or 0
        return metas[index] if index < len(metas) else None

    def _changing(self, values: Iterable[Value]) -> Iterator[FxNode]:
        for value in values:
            yield from self._changes.get(value, ())

    def _views(self, value: Value, where: Callable[[FxNode], bool]) -> list[Value]:
        """The value, and what operations in question made of it that autograd takes to be a view, or the same tensor."""
        found = [value]
        for known in found:
            results = [result for result, is_detached in self._results.get(known, ()) if not is_detached]
            found += [result for result in results if where(self._graph.fx_nodes_by_name[result.fx_node])]
        return found

    def _sharing(self, value: Value) -> list[Value]:
        """All values that share the memory."""
        found = [self._origin(value)]
        for known in found:
            found += [result for result, _ in self._results.get(known, ())]
        return found

    def _origin(self, value: Value) -> Value:
        """The first value of that memory."""
        while value in self._sources:
            value = self._sources[value]
        return value


def _changed(fx_node: FxNode) -> tuple[Value, ...]:
    """What an operation changed itself: its version counter is also that of other arguments that share the memory.

    An in-place operation returns what it changes; ``__setitem__`` returns nothing and changes its first argument.
    """
    if not fx_node.aliases:
        return fx_node.changes[:1]
    returned = tuple([value for value in fx_node.changes if value in fx_node.aliases])
    return returned or fx_node.changes

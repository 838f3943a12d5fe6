"""Which recorded operations change the memory of a value in place.

A view, the result of ``detach`` and the result of an in-place operation share the memory and the version counter of the
tensor they come from (torch/csrc/autograd/variable.h: ``DifferentiableViewMeta``; c10/core/TensorImpl.h:
``VariableVersion``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, FxNode, TensorRef, Value

_DETACH = "detach"


class Change(NamedTuple):
    """An operation that changed the memory of a value: ``is_direct`` if it changed it or a differentiable view of it."""

    fx_node: FxNode
    is_direct: bool


class Memory:
    """The values of a recorded forward, with those that share their memory."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._rank = {fx_node.name: rank for rank, fx_node in enumerate(graph.forward)}
        self._sources: dict[Value, Value] = {}
        self._results: dict[Value, list[tuple[Value, bool]]] = defaultdict(list)
        self._changes: dict[Value, list[FxNode]] = defaultdict(list)
        for fx_node in graph.forward:
            self._note_aliases(fx_node)
            for value in fx_node.changes:
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

    def changes(self, ref: TensorRef) -> Iterator[Change]:
        """The operations that changed the memory of a tensor of a module call, in order."""
        if ref.fx_node is None:
            return
        value = Value(ref.fx_node, ref.fx_index)
        found = {fx_node.name: Change(fx_node, is_direct=False) for fx_node in self._changing(self._sharing(value))}
        for fx_node in self._changing(self._views(value)):
            found[fx_node.name] = Change(fx_node, is_direct=True)
        yield from sorted(found.values(), key=lambda change: self._rank[change.fx_node.name])

    def _changing(self, values: Iterable[Value]) -> Iterator[FxNode]:
        for value in values:
            yield from self._changes.get(value, ())

    def _views(self, value: Value) -> list[Value]:
        """The value, and all that autograd takes to be a view of it, or the same tensor."""
        found = [value]
        for known in found:
            found += [result for result, is_detached in self._results.get(known, ()) if not is_detached]
        return found

    def _sharing(self, value: Value) -> list[Value]:
        """All values that share the memory."""
        while value in self._sources:
            value = self._sources[value]
        found = [value]
        for known in found:
            found += [result for result, _ in self._results.get(known, ())]
        return found

"""Finds the tensor of an edge that leads nowhere: in what its node saved, or in the list that its function was given.

A tensor that a node saved for backward shares its storage with the tensor that was passed. Unpacking it runs the unpack
hook of ``saved_tensors_hooks`` where there is one, so there it is left alone (torch/csrc/autograd/saved_variable.cpp,
SavedVariable::unpack).

The edges of a list argument, as ``torch.cat`` has one, are its members in their order (``collect_next_edges`` in
torch/csrc/autograd/function.h), so they are known from the recorded call of the node's own function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Edge, TensorMeta, Value
from fxgrad.observe.autograd.walk import WalkedGraph
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import OpArgument, OpEvent, TensorList
from fxgrad.observe.record.tensors import MetaTable

NO_GRAD = "it does not require grad"


class Operands:
    """The tensors of a recorded forward: by the memory that they are in, and as members of lists that were passed.

    ``calls`` are the recorded function calls by the names of their fx nodes; ``value_of`` names what had made a tensor.
    """

    def __init__(
        self,
        walked: WalkedGraph,
        metas: MetaTable,
        calls: Mapping[str, OpEvent],
        value_of: Callable[[OpArgument], Value | None],
    ) -> None:
        self._walked = walked
        self._metas = metas
        self._calls = calls
        self._value_of = value_of
        self._values: dict[tuple[object, ...], Value] = {}

    def add(self, tensor: torch.Tensor, value: Value) -> None:
        """Make a tensor known; of several with one memory the first stays."""
        key = _memory_of(tensor)
        if key is not None:
            self._values.setdefault(key, value)

    def complete_edges(
        self, edges: Sequence[Edge], node: AutogradNode, schema: str | None, fx_node: str | None
    ) -> list[Edge]:
        """The edges of a C++ node; those that lead nowhere get their tensor, where it is known."""
        lists = self._find_lists(edges, schema, fx_node)
        members: Counter[str | None] = Counter()
        completed: list[Edge] = []
        for edge in edges:
            member, members[edge.group] = members[edge.group], members[edge.group] + 1
            if edge.next_node is not None:
                completed.append(edge)
            elif edge.group in lists:
                completed.append(self._complete_from_list(edge, lists[edge.group], member))
            else:
                completed.append(self._complete_from_saved(edge, node))
        return completed

    def _find_lists(
        self, edges: Sequence[Edge], schema: str | None, fx_node: str | None
    ) -> dict[str | None, TensorList]:
        """The list arguments of the node's function, where it was called by its own name and with these tensors: a
        ``__torch_function__`` of the user's may have passed on others."""
        groups = dict.fromkeys(edge.group for edge in edges if edge.group is not None)
        seen = self._calls.get(fx_node or "") if groups else None
        if seen is None or getattr(seen.target, "__name__", None) != _function_name(schema):
            return {}
        by_place = dict(zip(groups, (given for given in seen.lists if given.name is None), strict=False))
        passed = by_place | {given.name: given for given in seen.lists if given.name in groups}
        grouped = {group: [edge for edge in edges if edge.group == group] for group in passed}
        return {group: given for group, given in passed.items() if self._may_fit(given, grouped[group])}

    def _may_fit(self, given: TensorList, edges: Sequence[Edge]) -> bool:
        """Whether the edges may be those of the members: each that leads somewhere to a gradient of its member's shape."""
        return len(given.members) == len(edges) and all(
            edge.next_node is None
            or (
                member.tensor.requires_grad and self._walked.gradient(edge.next_node, edge.input_nr).shape == meta.shape
            )
            for edge, member, meta in zip(edges, given.members, given.metas, strict=True)
        )

    def _complete_from_list(self, edge: Edge, given: TensorList, place: int) -> Edge:
        member = given.members[place]
        return _add_operand(edge, member.tensor, given.metas[place], self._value_of(member))

    def _complete_from_saved(self, edge: Edge, live: AutogradNode) -> Edge:
        raw = getattr(live, f"_raw_saved_{edge.argument}", None)
        if raw is None or is_a(raw, tuple) or may_run_unpack_hook(raw):
            return edge
        try:
            saved = getattr(live, f"_saved_{edge.argument}")
        except RuntimeError:  # freed by an earlier backward, or changed in place since
            return edge
        if not is_a(saved, torch.Tensor):
            return edge
        memory = _memory_of(saved)
        return _add_operand(
            edge, saved, self._metas.of_tensor(saved), None if memory is None else self._values.get(memory)
        )


def _add_operand(edge: Edge, tensor: torch.Tensor, meta: TensorMeta, value: Value | None) -> Edge:
    reason = edge.null_reason if tensor.requires_grad else NO_GRAD
    return replace(edge, operand=meta, value=value, null_reason=reason)


def _function_name(schema: str | None) -> str | None:
    """The name of a function without namespace and overload.

    >>> _function_name("aten::_foreach_add.List(Tensor[] self, Tensor[] other, *, Scalar alpha=1) -> Tensor[]")
    '_foreach_add'
    """
    return None if schema is None else schema.partition("(")[0].rpartition("::")[2].partition(".")[0]


def may_run_unpack_hook(raw: Any) -> bool:
    """Whether unpacking what a node saved runs a hook of the user's, or may: torch 2.9 does not show its hooks.

    `raw` is what the node shows as ``_raw_saved_<argument>``: a SavedTensor, a tuple of them for a list, or None.
    """
    several = raw if is_a(raw, tuple) else (raw,)
    return any(one is not None and getattr(one, "unpack_hook", NotImplemented) is not None for one in several)


def _memory_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    try:
        storage = tensor.untyped_storage()._cdata
        return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain storage
        return None

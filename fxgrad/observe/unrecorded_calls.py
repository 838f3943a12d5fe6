"""Calls of modules with full hooks that nobody watched: what their ``BackwardHook`` (torch/utils/hooks.py) keeps.

The post-hooks that it put on the nodes lead to it. It knows how many arguments and results the call had and which of
them are tensors, but not the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.autograd.graph import Node as AutogradNode
from torch.utils.hooks import BackwardHook

from fxgrad.graph import FullHookSetup, UnrecordedCall
from fxgrad.observe.record.names import ModuleNames, argument_names


@dataclass
class _Sides:
    hook: BackwardHook
    nodes: dict[str, AutogradNode] = field(default_factory=dict)


class UnrecordedCalls:
    """What was found of such calls, in the order in which their first node was."""

    def __init__(self) -> None:
        self._found: dict[int, _Sides] = {}

    def add(self, hook: BackwardHook, side: str, node: AutogradNode) -> None:
        """Note a node that a BackwardHook has put its post-hook on, on the "input" or the "output" side."""
        self._found.setdefault(id(hook), _Sides(hook)).nodes[side] = node

    def records(self, modules: ModuleNames, ids: Mapping[AutogradNode, int]) -> tuple[UnrecordedCall, ...]:
        """One record for each; `ids` are those of the nodes in the graph."""
        return tuple([_record(sides, modules, ids) for sides in self._found.values()])


def _record(sides: _Sides, modules: ModuleNames, ids: Mapping[AutogradNode, int]) -> UnrecordedCall:
    hook = sides.hook
    nodes = {side: ids.get(node) for side, node in sides.nodes.items()}
    return UnrecordedCall(
        path=modules.path_of(hook.module),
        full_hook=full_hook_setup(hook),
        input_hook_node=nodes.get("input"),
        output_hook_node=nodes.get("output"),
        argument_names=argument_names(hook.module, max(hook.n_inputs, 0)),
        has_waiting=hook.grad_outputs is not None,
    )


def full_hook_setup(hook: BackwardHook) -> FullHookSetup:
    """What a BackwardHook did at its call."""
    return FullHookSetup(
        n_inputs=hook.n_inputs,
        input_positions=None if hook.input_tensors_index is None else tuple(hook.input_tensors_index),
        n_outputs=hook.n_outputs,
        output_positions=None if hook.output_tensors_index is None else tuple(hook.output_tensors_index),
    )

"""Runs a recorded forward again, as a ``torch.fx.GraphModule``, without touching the model."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxgrad.errors import UsageError
from fxgrad.observe.fx_operations import named
from fxgrad.observe.memory_copies import MemoryCopies, Window, memory_key
from fxgrad.observe.names import tensor_paths
from fxgrad.observe.real_types import is_a


@dataclass(frozen=True)
class RecordedForward:
    """The recorded ``torch.fx.Graph``, with what it needs to run again.

    ``changed`` are the names of the parameters that the run wrote to; ``windows`` says of constants in the memory of a
    parameter or buffer which part of it they are; ``unfit`` says why it cannot run again.
    """

    graph: fx.Graph
    constants: Mapping[str, Any]
    changed: frozenset[str]
    windows: Mapping[str, tuple[str, Window]]
    unfit: str | None = None

    def module(self, model: nn.Module) -> fx.GraphModule:
        """A GraphModule that runs the graph with the values that `model` has.

        Its parameters share their memory with those of the model, but have gradients and hooks of their own; what the
        graph writes to (buffers, parameters like an Embedding's with ``max_norm``) is copied. Raises UsageError for a
        model without one of the parameters, and where the forward cannot be run again.
        """
        if self.unfit is not None:
            raise UsageError(
                f"a forward that cannot be run again: {self.unfit}",
                "operations that PyTorch runs by itself, and an output that can be made anew",
                "run the model itself, or return tensors in tuples, lists and dicts",
            )
        names = dict.fromkeys(str(fx_node.target) for fx_node in self.graph.nodes if fx_node.op == "get_attr")
        own = self._own(model, [name for name in names if name not in self.constants])
        memories = MemoryCopies()
        constants = {name: copied_constant(self.constants[name], memories) for name in names if name in self.constants}
        for name, (attribute, window) in self.windows.items():
            if attribute in own and name in constants:
                shared = window.on(own[attribute].untyped_storage())
                constants[name] = shared.requires_grad_(constants[name].requires_grad)
        return _graph_module(constants | own, self.graph)

    def _own(self, model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
        """The parameters and buffers: in the model's memory, where nothing is written to it, else in a copy of it."""
        parameters, buffers = dict(tensor_paths(model, "_parameters")), dict(tensor_paths(model, "_buffers"))
        found = {name: parameters.get(name, buffers.get(name)) for name in names}
        written = self._written(parameters)
        copied = {name for name in found if name in buffers or name in written}
        memories = {memory_key(tensor) for name, tensor in found.items() if tensor is not None and name in copied}
        copies = MemoryCopies()
        own: dict[str, torch.Tensor] = {}
        for name, tensor in found.items():
            if tensor is None:
                raise _without(name)
            shares_copy = memory_key(tensor) in memories - {None}
            own[name] = copies.copy(tensor) if name in copied or shares_copy else tensor.detach()
            if name in parameters:
                own[name] = nn.Parameter(own[name].detach(), tensor.requires_grad)
        return own

    def _written(self, parameters: Mapping[str, torch.Tensor]) -> frozenset[str]:
        shared = frozenset([attribute for attribute, _ in self.windows.values()])
        return self.changed | shared | (frozenset(parameters) if self._takes_data() else frozenset())

    def _takes_data(self) -> bool:
        """Whether the graph takes the ``.data`` of a tensor: what is written to that, no version counter sees."""
        return any(fx_node.target is getattr and "data" in fx_node.args for fx_node in self.graph.nodes)


def _graph_module(attributes: Mapping[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A module that runs a copy of the graph. Modules that were arguments are attributes, not its submodules: those
    would be trained, moved and switched to evaluation with it."""
    names = _free_names(attributes)
    copied = copy.deepcopy(graph)
    scripted: dict[Any, Any] = {}
    for fx_node in copied.nodes:
        if fx_node.op == "get_attr":
            fx_node.target = names[fx_node.target]
        method = getattr(fx_node.target, "__wrapped__", None)
        if isinstance(method, torch._C.ScriptMethod):
            fx_node.target = _of_copy(method, scripted)
    made = fx.GraphModule({names[name]: value for name, value in attributes.items()}, copied, "RecordedForward")
    for name in [name for name, value in attributes.items() if is_a(value, nn.Module)]:
        vars(made)[names[name]] = made._modules.pop(names[name])
    return made


def _of_copy(method: Any, copies: dict[Any, Any]) -> Any:
    """A method of a scripted module, of a copy of that: it would write to the model's buffers."""
    if method.owner not in copies:
        copies[method.owner] = copy.deepcopy(method.owner)
    return named(copies[method.owner]._get_method(method.name))


def _free_names(names: Collection[str]) -> dict[str, str]:
    """Where a GraphModule can hold what has these names: it has a ``graph`` and a ``code`` of its own."""
    own = fx.GraphModule({}, fx.Graph())
    prefix = "model_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return {name: prefix + name if hasattr(own, name.partition(".")[0]) else name for name in names}


def copied_constant(value: Any, memories: MemoryCopies) -> Any:
    """A constant for one GraphModule: running it may change tensors and advance generators."""
    if is_a(value, torch.Tensor):
        return memories.copy(value)
    return value.clone_state() if is_a(value, torch.Generator) else value


def _without(name: str) -> UsageError:
    return UsageError(
        f"a model without the parameter or buffer {name}, which the recorded forward uses",
        "the model that was traced, or one with the same parameters and buffers",
        "pass the model that was traced",
    )

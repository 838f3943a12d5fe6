"""The recorded forward as a real ``torch.fx.Graph`` that can be run again.

``torch.fx.symbolic_trace`` runs a model on proxies: it fails on data-dependent code and inlines modules without their
hooks. This graph is made from the calls of a real run. Tensors are tied to fx nodes by identity; results that hold no
tensor (sizes, ``item()``) are constants of that run.

Sources relied on: torch/fx/graph.py, torch/fx/_symbolic_trace.py (names of placeholders, nn_module_stack),
torch/fx/passes/shape_prop.py (TensorMetadata).
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import _get_qualified_name
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.nn.modules._functions import BackwardHookFunction

from fxgrad.graph import Path, Value
from fxgrad.observe.frames import stack_trace
from fxgrad.observe.seen import Earlier, SeenFunctionCall, SeenModuleCall, SeenTensor
from fxgrad.observe.structure import tensors_in

_PRINTABLE = (
    int,
    float,
    bool,
    str,
    complex,
    type(None),
    type(...),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
)
"""Arguments that torch/fx/graph.py can write into the code of a GraphModule."""
_DEEPEST = 20


class ForwardGraph:
    """A ``torch.fx.Graph`` under construction, and which fx node each call and each tensor became."""

    def __init__(self, attributes: Mapping[int, str], constants: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self.node_of_call: dict[int, fx.Node] = {}
        self.stack_of_node: dict[fx.Node, SeenFunctionCall] = {}
        self._attributes = attributes
        self._copies = {id(tensor): copy for tensor, copy in constants}
        self._fx_nodes: dict[int, fx.Node] = {}
        self._access: dict[int, tuple[fx.Node, Any, Path]] = {}
        self._attribute_nodes: dict[str, fx.Node] = {}
        self._originals: dict[int, str | None] = {}
        self._hook_functions: dict[int, SeenFunctionCall] = {}
        self._autocast: Any = None
        self._entered: fx.Node | None = None

    def add_placeholders(self, names: list[str], values: list[Any]) -> None:
        """One placeholder per argument; the tensors inside an argument are reached from it when they are used."""
        for name, value in zip(names, values, strict=True):
            placeholder = self.graph.placeholder(name)
            for path, tensor in tensors_in(value).tensors:
                self._access.setdefault(id(tensor), (placeholder, value, path))

    def add_call(self, number: int, seen: SeenFunctionCall) -> None:
        """Append one recorded call. A BackwardHookFunction is the identity, so it adds none."""
        if seen.target is BackwardHookFunction:
            self._hook_functions[number] = seen
            for argument, (_, result) in zip(seen.args, seen.results, strict=True):
                self._fx_nodes[id(result)] = self.fx_node_of(argument)
            return
        self._switch_autocast(seen)
        op, target, args, kwargs = _operation(seen)
        fx_node = self.graph.create_node(op, target, self.argument(args), self.argument(kwargs))
        self.node_of_call[number] = fx_node
        self._describe(fx_node, seen)
        for path, tensor in seen.results:
            self._originals.setdefault(id(tensor), self.made(tensor))
            self._access[id(tensor)] = (fx_node, None, path)
            self._fx_nodes.pop(id(tensor), None)

    def _switch_autocast(self, seen: SeenFunctionCall) -> None:
        if seen.autocast == self._autocast:
            return
        self.leave_autocast()
        if seen.autocast is not None:
            enter = torch.amp.autocast_mode._enter_autocast
            self._entered = self.graph.call_function(enter, seen.autocast)
            self._describe(self._entered, seen)
        self._autocast = seen.autocast

    def leave_autocast(self) -> None:
        """Close the autocast region that is open, if one is."""
        if self._entered is not None:
            leave = self.graph.call_function(torch.amp.autocast_mode._exit_autocast, (self._entered,))
            leave.meta = dict(self._entered.meta)
            self.stack_of_node[leave] = self.stack_of_node[self._entered]
        self._entered = self._autocast = None

    def _describe(self, fx_node: fx.Node, seen: SeenFunctionCall) -> None:
        self.stack_of_node[fx_node] = seen
        fx_node.meta["stack_trace"] = stack_trace(seen.frames)
        fx_node.meta["sequence_window"] = seen.window
        fx_node.meta["tensor_meta"] = _tensor_metas(seen)

    def argument(self, value: Any, depth: int = 0) -> Any:
        """The same value with fx nodes for tensors, and constants for what fx cannot write down."""
        if isinstance(value, torch.Tensor):
            return self.fx_node_of(value)
        if isinstance(value, _PRINTABLE):
            return tuple(value) if isinstance(value, torch.Size) else value
        if depth < _DEEPEST:
            if type(value) in (tuple, list):
                return type(value)([self.argument(member, depth + 1) for member in value])
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                members = tuple([self.argument(member, depth + 1) for member in value])
                return self.graph.call_function(type(value), members)
            if type(value) is dict and all(isinstance(key, str) for key in value):
                return {key: self.argument(member, depth + 1) for key, member in value.items()}
            if isinstance(value, slice):
                return slice(*[self.argument(part, depth + 1) for part in (value.start, value.stop, value.step)])
        return self._constant(value)

    def fx_node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The fx node whose result the tensor is; made now where it is an attribute, a constant or part of a result."""
        known = self._fx_nodes.get(id(tensor))
        if known is None:
            known = self._fx_nodes[id(tensor)] = self._make(tensor)
        return known

    def made(self, tensor: torch.Tensor) -> str | None:
        """The name of the fx node that made a tensor, at the end of the run; None where none did."""
        fx_node = self._fx_nodes.get(id(tensor)) or (
            self._access[id(tensor)][0] if id(tensor) in self._access else None
        )
        return None if fx_node is None else fx_node.name

    def value_of(self, seen: SeenTensor | Earlier) -> Value | None:
        """The fx node that had made a tensor at one moment of the run, and which of its results it was."""
        if seen.producer is None:
            name = self._originals.get(id(seen.tensor)) or self.made(seen.tensor)
            return None if name is None else Value(name)
        number, position = seen.producer
        if number in self._hook_functions:  # the identity: the value is that of its argument
            argument = self._hook_functions[number].aliases[position]
            return None if argument is None else self.value_of(argument)
        fx_node = self.node_of_call.get(number)
        if fx_node is None:
            return None
        return Value(fx_node.name, position if len(self.stack_of_node[fx_node].results) > 1 else None)

    def named_nodes(self) -> list[tuple[int, fx.Node]]:
        """The fx nodes of placeholders, attributes and constants, by the identity of their tensor."""
        return [(key, node) for key, node in self._fx_nodes.items() if node.op in ("placeholder", "get_attr")]

    def _make(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) in self._access:
            return self._reach(*self._access[id(tensor)])
        if id(tensor) in self._attributes:
            return self._get_attr(self._attributes[id(tensor)])
        return self._constant(self._copies.get(id(tensor), tensor.detach()))

    def _reach(self, fx_node: fx.Node, value: Any, path: Path) -> fx.Node:
        for key in path:
            by_name = value is not None and dataclasses.is_dataclass(value) and not isinstance(value, Mapping)
            parent = fx_node
            fx_node = self.graph.call_function(getattr if by_name else operator.getitem, (fx_node, key))
            if parent in self.stack_of_node:
                self.stack_of_node[fx_node] = self.stack_of_node[parent]
            fx_node.meta.update(parent.meta)
            if value is not None:
                value = getattr(value, str(key)) if by_name else value[key]
        return fx_node

    def _get_attr(self, name: str) -> fx.Node:
        if name not in self._attribute_nodes:
            self._attribute_nodes[name] = self.graph.create_node("get_attr", name)
        return self._attribute_nodes[name]

    def _constant(self, value: Any) -> fx.Node:
        number = len(self.constants)
        taken = set(self._attributes.values())
        name = next(name for name in (f"_constant{number}{'_' * extra}" for extra in range(99)) if name not in taken)
        self.constants[name] = value
        return self._get_attr(name)

    def add_output(self, value: Any) -> None:
        """Finish the graph: it returns what the model returned, in the same containers."""
        self.leave_autocast()
        self.graph.output(self._result(value))

    def _result(self, value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            members = {name: self._result(member) for name, member in fields.items()}
            return self.graph.call_function(type(value), (), members)
        if type(value) in (tuple, list):
            return type(value)([self._result(member) for member in value])
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: self._result(member) for key, member in value.items()}
        return self.argument(value)


def _operation(seen: SeenFunctionCall) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    target, args, kwargs = seen.target, seen.args, seen.kwargs
    if isinstance(target, type):
        return "call_function", _named(target.apply), args, kwargs  # type: ignore[attr-defined]
    name = getattr(target, "__name__", "")
    owner = getattr(target, "__self__", None)
    if name == "__get__":
        return "call_function", getattr, (args[0], owner.__name__), {}  # type: ignore[union-attr]
    if name == "__set__":
        return "call_function", setattr, (args[0], owner.__name__, *args[1:]), {}  # type: ignore[union-attr]
    if args and isinstance(args[0], torch.Tensor) and getattr(torch.Tensor, name, None) is target:
        return _method(name, args, kwargs)
    return "call_function", _named(target), args, kwargs


def _method(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    """``x.__rsub__(1)`` becomes ``operator.sub(1, x)``, as torch.fx writes it; other methods stay methods."""
    if not (name.startswith("__") and name.endswith("__")) or kwargs:
        return "call_method", name, args, kwargs
    bare = name.strip("_")
    if hasattr(operator, name):
        return "call_function", getattr(operator, bare, getattr(operator, name)), args, kwargs
    if len(args) == 2 and bare.startswith("r") and hasattr(operator, f"__{bare[1:]}__"):  # noqa: PLR2004
        return "call_function", getattr(operator, f"__{bare[1:]}__"), args[::-1], kwargs
    return "call_method", name, args, kwargs


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a wrapper of it where torch.fx could not find a name for it."""
    try:
        _get_qualified_name(function)
    except (AttributeError, RuntimeError, ValueError):

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        recorded.__name__ = recorded.__qualname__ = str(getattr(function, "__name__", "recorded"))
        return recorded
    return function


def _tensor_metas(seen: SeenFunctionCall) -> Any:
    metas = [_extract_tensor_metadata(tensor) for _, tensor in seen.results]
    if seen.metas is not None:
        metas = [
            found._replace(shape=torch.Size(meta.shape)) if meta.shape is not None else found  # type: ignore[arg-type]
            for found, meta in zip(metas, seen.metas, strict=True)
        ]
    return metas[0] if len(metas) == 1 else tuple(metas) or None


def argument_names(module: nn.Module, n_args: int) -> tuple[str, ...]:
    """The names that ``module.forward`` gives to its first `n_args` positional arguments: ``rest[0]`` for varargs."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return tuple(f"argument {position}" for position in range(n_args))
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{position}]" for position in range(max(0, n_args - len(names)))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names += [f"argument {position}" for position in range(len(names), n_args)]
    return tuple(names[:n_args])


def build(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    calls: list[SeenFunctionCall],
    constants: list[tuple[torch.Tensor, torch.Tensor]],
    call_names: Mapping[SeenModuleCall, tuple[str, type]],
) -> ForwardGraph:
    """Make the graph of one recorded run of `model`."""
    forward = ForwardGraph(attribute_names(model), constants)
    positional = [
        name.replace("[", "_").replace("]", "").replace(" ", "_") for name in argument_names(model, len(args))
    ]
    forward.add_placeholders([*positional, *kwargs], [*args, *kwargs.values()])
    for number, seen in enumerate(calls):
        if not seen.in_loss:
            forward.add_call(number, seen)
    forward.add_output(output)
    for fx_node, seen in forward.stack_of_node.items():
        fx_node.meta["nn_module_stack"] = _module_stack(seen.module_call, call_names)
    return forward


def _module_stack(
    call: SeenModuleCall | None, call_names: Mapping[SeenModuleCall, tuple[str, type]]
) -> dict[str, tuple[str, type]]:
    stack = []
    while call is not None:
        stack.append(call_names[call])
        call = call.parent
    return {path: (path, kind) for path, kind in reversed(stack)}


def attribute_names(model: nn.Module) -> dict[int, str]:
    """The first qualified name of every parameter and buffer, by the tensor's id."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {id(tensor): name for name, tensor in reversed(named)}


def runnable(
    graph: fx.Graph, constants: Mapping[str, Any], model: nn.Module, changed: frozenset[str]
) -> fx.GraphModule:
    """A GraphModule that runs the graph with the model's parameters; it gets copies of what running would change.

    Buffers, and the parameters that the recorded run wrote to (`changed`), are copied, so the model stays as it is.
    """
    attributes: dict[str, Any] = dict(constants)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for fx_node in graph.nodes:
        name = str(fx_node.target)
        if fx_node.op == "get_attr" and name not in attributes:
            tensor = parameters[name] if name in parameters else buffers[name]
            copied = name in changed or name in buffers
            attributes[name] = tensor.detach().clone().requires_grad_(tensor.requires_grad) if copied else tensor
        elif fx_node.op == "get_attr" and isinstance(attributes[name], torch.Tensor):
            attributes[name] = attributes[name].clone()
    return fx.GraphModule(attributes, copy.deepcopy(graph))

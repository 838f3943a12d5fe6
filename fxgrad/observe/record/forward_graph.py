"""The recorded forward as a real ``torch.fx.Graph``, and as a ``torch.fx.GraphModule`` that runs it again.

``torch.fx.symbolic_trace`` runs a model on proxies: it fails on data-dependent code and inlines modules without their
hooks. This graph is made from the calls of a real run. Tensors are tied to fx nodes by identity; results that hold no
tensor (sizes, ``item()``) are constants of that run.

Sources relied on: torch/fx/graph.py (how arguments are printed as code), torch/fx/_symbolic_trace.py (names of
placeholders, nn_module_stack), torch/fx/passes/shape_prop.py (TensorMetadata), torch/utils/_pytree.py; torch/_tensor.py
(``__deepcopy__``: tensors that share their memory share it in the copies, too), torch/fx/graph_module.py.
"""

from __future__ import annotations

import copy
import keyword
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils import _pytree as pytree

from fxgrad.errors import UsageError
from fxgrad.graph import Value
from fxgrad.graph.text import escape
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent, OpArgument, OpEvent, OpResult, TensorSnapshot
from fxgrad.observe.record.frames import format_stack
from fxgrad.observe.record.fx_operations import (
    find_operation,
    flatten,
    is_literal,
    is_plain,
    make_apply,
    make_placeholder_names,
    make_stand_in,
    name_of_function,
    wrap_for_printing,
)
from fxgrad.observe.record.graph_modules import GraphModules
from fxgrad.observe.record.names import list_tensor_paths
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.tensors import (
    Route,
    find_routes,
    find_tensor_routes,
    identify_memory,
    may_have_history,
    read_stride,
)

ModuleStack = dict[str, tuple[str, type]]

_DEEPEST = 20


class FxOrigin(NamedTuple):
    """What an fx node was made for.

    ``event``   the recorded call that it is, or that it prepares
    ``is_call``  whether it is that call itself
    ``results``  the tensors that it gives, as they were then
    ``window``  autograd's sequence numbers before and after
    """

    event: OpEvent | None
    is_call: bool
    results: Sequence[OpResult]
    window: tuple[int, int] | None


class ForwardGraph:
    """A ``torch.fx.Graph`` under construction, and which fx node each call and each tensor became.

    `attributes` are the names of the model's parameters and buffers by their identity; what a GraphModule of the model has
    run keeps the names that it has in ``traced``. ``refusal`` says why no
    ``GraphModule`` can repeat the run, if none can: operations on tensors, parameters and plain values do not tell all.
    """

    def __init__(
        self,
        recorder: Recorder,
        attributes: Mapping[int, str],
        call_names: Mapping[ModuleEvent, tuple[str, type]],
        traced: GraphModules,
    ) -> None:
        self.graph = fx.Graph()
        self.traced = traced
        self.node_of_call: dict[int, fx.Node] = {}
        self.origins: dict[fx.Node, FxOrigin] = {}
        self.refusal = recorder.ops.refusal
        self._recorder = recorder
        self._attributes = attributes
        self._names = set(attributes.values())
        self._call_names = call_names
        self._constants: dict[str, Any] = {}
        self._fx_nodes: dict[int, fx.Node] = {}
        self._routes: dict[int, tuple[fx.Node, Route]] = {}
        self._members: dict[fx.Node, Sequence[OpResult]] = {}
        self._arguments: list[torch.Tensor] = []
        self._attribute_nodes: dict[str, fx.Node] = {}
        self._first_makers: dict[int, str | None] = {}
        self._kept_names: dict[int, str | None] = {}
        self._hook_functions: dict[int, OpEvent] = {}
        self._targets: dict[int, tuple[Any, Any]] = {}
        self._metadata: dict[tuple[object, ...], TensorMetadata] = {}
        self._grad_enabled = recorder.grad_enabled
        self._event: OpEvent | None = None
        self._end = 0
        # no other operation may have the name of a node of a GraphModule's graph
        self._reserved = set(traced.reserved)
        self.graph._graph_namespace._used_names.update(self._reserved)
        self._numbers: dict[fx.Node, int] = {}

    # Inputs

    def add_placeholders(self, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Add one placeholder per argument; the tensors inside an argument are reached from it when they are used."""
        plain = [name for name in kwargs if name.isidentifier() and not keyword.iskeyword(name)]
        values = [
            *zip(make_placeholder_names(names, plain), args, strict=True),
            *[(name, kwargs[name]) for name in plain],
        ]
        odd = {name: value for name, value in kwargs.items() if name not in plain}
        if odd:
            values.append(("**keywords", odd))
        for name, value in values:
            placeholder = self.graph.placeholder(name)
            tensors = find_tensor_routes(value)
            self._arguments += [tensor for _, tensor in tensors]
            self._members[placeholder] = [self._first_seen(route, tensor) for route, tensor in tensors]
            for route, member in [*tensors, *find_routes(torch.Generator, value)]:
                self._routes.setdefault(id(member), (placeholder, route))

    def _first_seen(self, route: Route, tensor: torch.Tensor) -> OpResult:
        meta = self._recorder.log.first_meta(tensor)
        stride = read_stride(tensor) if meta == self._recorder.metas.of_tensor(tensor) else None
        return OpResult(route, tensor, meta, stride, tensor.requires_grad, None)

    # Calls

    def add_call(self, number: int, event: OpEvent) -> None:
        """Append one recorded call. A BackwardHookFunction is the identity, so it adds none."""
        self._event = event
        self._end = event.window[1]
        if event.target is BackwardHookFunction:
            self._hook_functions[number] = event
            for argument, result in zip(event.args, event.results, strict=True):
                self._fx_nodes[id(result.tensor)] = self.fx_node_of(argument)
            return
        if event.target is torch._C._set_grad_enabled:
            return  # C++ code changes the grad mode unseen, so each call knows the mode that it ran in
        self._set_grad(enabled=event.differentiable)
        op, target, args, kwargs = find_operation(event)
        if op == "call_function":
            target = self._target(target)
        arguments = tuple([self._convert(value) for value in args])
        keywords = {name: self._convert(value) for name, value in kwargs.items()}
        fx_node = self.graph.create_node(op, target, arguments, keywords, self._free(self.traced.names.get(number)))
        self.node_of_call[number] = fx_node
        self._numbers[fx_node] = number
        self._describe(fx_node, event.results, is_call=True)
        for result in event.results:
            self._note_returned(event, result)
            self._first_makers.setdefault(id(result.tensor), self.maker_of(result.tensor))
            self._routes[id(result.tensor)] = (fx_node, result.route)
            self._fx_nodes.pop(id(result.tensor), None)
        self._members[fx_node] = event.results

    def _free(self, name: str | None) -> str | None:
        """The name of a node of a GraphModule's graph, for what has run it; torch.fx makes another where it is taken."""
        if name in self._reserved:
            self._reserved.discard(name)
            self.graph._graph_namespace._used_names.discard(name)
        return name

    def _note_returned(self, event: OpEvent, result: OpResult) -> None:
        """Keep the name of a tensor that a call returns as it got it, as ``x.cpu()`` may: the call has not made it."""
        key = id(result.tensor)
        if any(change.tensor is result.tensor for change in event.changes):
            self._kept_names.pop(key, None)
        elif result.shares is not None and result.shares.tensor is result.tensor:
            self._kept_names.setdefault(key, self.maker_of(result.tensor))

    def _set_grad(self, *, enabled: bool) -> None:
        if enabled != self._grad_enabled:
            self._add_function(torch._C._set_grad_enabled, enabled)
            self._grad_enabled = enabled

    def _target(self, function: Any) -> Any:
        """What an fx node calls; one that stands in for a function that cannot be called again."""
        known = self._targets.get(id(function))
        if known is None:
            # with the function itself: its identity is its own only as long as it lives
            known = self._targets[id(function)] = function, self._make_target(function)
        return known[1]

    def _make_target(self, function: Any) -> Any:
        if is_a(function, torch._C.ScriptMethod):
            self._refuse(f"it calls the scripted method {escape(function.name)}, which has parameters of its own")
            return make_stand_in(function)
        if is_a(function, type) and issubclass(function, torch._C._FunctionBase):
            return make_apply(function)
        if not is_plain(function):
            self._refuse(f"it calls {escape(name_of_function(function))}, a function that may hold tensors of the run")
            return make_stand_in(function)
        return wrap_for_printing(function)

    def _add_function(
        self, function: Any, *args: Any, results: Sequence[OpResult] = (), name: str | None = None
    ) -> fx.Node:
        """Add a call that no recorded call stands for."""
        made = self.graph.create_node("call_function", function, args, name=self._free(name))
        return self._describe(made, results)

    def _describe(self, fx_node: fx.Node, results: Sequence[OpResult], *, is_call: bool = False) -> fx.Node:
        event = self._event
        start = self._end if event is None else event.window[0]
        window = event.window if is_call and event is not None else (start, start)
        self.origins[fx_node] = FxOrigin(event, is_call, results, window)
        found = [self._find_metadata(result) for result in results]
        fx_node.meta["nn_module_stack"] = {} if event is None else self._module_stack(event.module_call)
        fx_node.meta["stack_trace"] = "" if event is None else format_stack(event.stack)
        fx_node.meta["sequence_window"] = window
        fx_node.meta["tensor_meta"] = found[0] if len(found) == 1 else tuple(found) or None
        return fx_node

    def _module_stack(self, call: ModuleEvent | None) -> ModuleStack:
        stack = []
        while call is not None:
            stack.append(self._call_names[call])
            call = call.parent
        return {path: (path, kind) for path, kind in reversed(stack)}

    def _find_metadata(self, result: OpResult) -> TensorMetadata | None:
        """What ``torch.fx.passes.shape_prop`` says of a tensor, as it was then. Models repeat few different ones."""
        meta, stride = result.meta, result.stride
        shape = None if meta.shape is None else tuple([size for size in meta.shape if type(size) is int])
        is_plain = stride is not None and shape == meta.shape and not meta.dtype.startswith("q")  # quantized: qint8 …
        if stride is None or shape is None or not is_plain:
            return _extract_metadata(result.tensor, shape if shape == meta.shape else None)
        key = shape, stride, meta.dtype, result.requires_grad
        if key not in self._metadata:
            self._metadata[key] = _make_metadata(*key)
        return self._metadata[key]

    # Values

    def _convert(self, value: Any, depth: int = 0) -> Any:
        """The same value with fx nodes for tensors; what fx cannot write as code is an attribute."""
        if is_a(value, torch.Tensor):
            return self.fx_node_of(value)
        kind = type(value)
        if is_literal(value):
            return value
        if depth < _DEEPEST:
            if kind in (tuple, list):
                return kind([self._convert(member, depth + 1) for member in value])
            if kind is dict and all(type(key) is str for key in value):
                return {key: self._convert(member, depth + 1) for key, member in value.items()}
            if kind is slice:
                return slice(*[self._convert(part, depth + 1) for part in (value.start, value.stop, value.step)])
            if kind is torch.Size and not self._is_users():
                return tuple(value)  # as good for a function of torch
        return self._convert_object(value)

    def _is_users(self) -> bool:
        """Whether the user's code gets the value: the output, and arguments of a Function."""
        return self._event is None or is_a(self._event.target, type)

    def _convert_object(self, value: Any) -> Any:
        """A container that torch.utils._pytree can rebuild, or a constant without tensors; else the run is refused."""
        if id(value) in self._routes:  # a generator among the arguments
            return self._reach(*self._routes[id(value)])
        if is_plain(value):
            return self._constant(value)
        tensors = find_tensor_routes(value)
        leaves, spec = flatten(value)
        if spec is not None:
            members = [self._convert(leaf) for leaf in leaves]
            results = [self._first_seen(route, tensor) for route, tensor in tensors]
            return self._add_function(pytree.tree_unflatten, members, self._constant(spec), results=results)
        holder = "its output holds" if self._event is None else f"it passes {self._event_name()}"
        self._refuse(f"{holder} a {escape(type(value).__name__)}, which is neither a tensor nor a plain value")
        # no part of the run may be kept alive, so the tensors that are in there stand for it
        return tuple([self.fx_node_of(tensor) for _, tensor in tensors]) if tensors else self._constant(None)

    def _event_name(self) -> str:
        return "" if self._event is None else escape(name_of_function(self._event.target))

    def fx_node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The fx node whose result the tensor is; made now where it is an attribute, a constant or part of a result."""
        known = self._fx_nodes.get(id(tensor))
        if known is None:
            known = self._fx_nodes[id(tensor)] = self._make_fx_node(tensor)
        return known

    def _make_fx_node(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) in self._routes:
            return self._reach(*self._routes[id(tensor)])
        if id(tensor) in self._attributes:
            return self._get_attr(self._attributes[id(tensor)])
        return self._constant(tensor)

    def _reach(self, fx_node: fx.Node, route: Route) -> fx.Node:
        """The part of a result, or of an argument, that the steps lead to."""
        members = self._members.get(fx_node, ())
        for depth, step in enumerate(route):
            members = [member for member in members if member.route[depth].position == step.position]
            key = step.key if is_literal(step.key) else self._constant(step.key)
            function = getattr if step.is_attribute else operator.getitem
            name = None
            if function is operator.getitem and is_literal(step.key) and fx_node in self._numbers:
                name = self.traced.members.get((self._numbers[fx_node], step.key))
            fx_node = self._add_function(function, fx_node, key, results=members, name=name)
        return fx_node

    def is_attribute(self, tensor: torch.Tensor) -> bool:
        """Whether the model held the tensor as a parameter or buffer before forward."""
        return id(tensor) in self._attributes

    def _get_attr(self, name: str) -> fx.Node:
        if name not in self._attribute_nodes:
            own = self.traced.attributes.get(name)
            self._attribute_nodes[name] = self.graph.create_node("get_attr", name, name=own)
        return self._attribute_nodes[name]

    def _constant(self, value: Any) -> fx.Node:
        """An attribute that holds the value: itself, not a copy."""
        name = f"_constant{len(self._constants)}"
        while name in self._names:
            name += "_"
        self._constants[name] = value
        return self._get_attr(name)

    # Output

    def add_output(self, value: Any) -> None:
        """Finish the graph: it returns what the model returned, in the same containers."""
        self._event = None
        self._set_grad(enabled=self._recorder.grad_enabled)
        self.graph.output(self._convert(value))

    def _refuse(self, reason: str) -> None:
        self.refusal = self.refusal or reason

    def finish(self) -> RecordedForward:
        """What it takes to run the graph again. Nothing in it keeps a part of the run alive, but for constants."""
        written = self._check_memory()
        constants = {} if self.refusal else {name: _detach(value) for name, value in self._constants.items()}
        return RecordedForward(self.graph, constants, written, self.refusal)

    def _check_memory(self) -> frozenset[str]:
        """The parameters and buffers that the run changed in place. Refuse what else it changed, and lost histories.

        A constant has lost its first value, and what is changed through one tensor may be read through another: a copy of
        a parameter would no longer be the memory of an argument.
        """
        log, recorder = self._recorder.log, self._recorder
        changed = {id(each.tensor) for event in recorder.function_calls for each in event.changes}
        memories = {identify_memory(each.tensor) for event in recorder.function_calls for each in event.changes}

        def is_changed(tensor: torch.Tensor) -> bool:
            return bool(changed) and (id(tensor) in changed or identify_memory(tensor) in memories)

        constants = [value for value in self._constants.values() if is_a(value, torch.Tensor)]
        if any(map(is_changed, constants)):
            self._refuse("it modifies in place a tensor that is not a parameter, buffer or argument of the model")
        if any(map(may_have_history, constants)):
            self._refuse("it uses a tensor whose grad_fn no recorded operation made")
        own = [tensor for tensor in log.kept if id(tensor) in self._attributes]
        written = {self._attributes[id(tensor)]: identify_memory(tensor) for tensor in own if is_changed(tensor)}
        if any(is_changed(argument) and identify_memory(argument) in written.values() for argument in self._arguments):
            self._refuse("it modifies memory that an argument shares with a parameter or buffer")
        if any(log.has_changed(tensor) and not is_changed(tensor) for tensor in (*own, *self._arguments, *constants)):
            self._refuse("it modifies a tensor in place outside of the recorded operations")
        return frozenset(written)

    # Questions

    def maker_of(self, tensor: torch.Tensor) -> str | None:
        """The name of the fx node that made a tensor, at the end of the run; None where none did."""
        fx_node = self._fx_nodes.get(id(tensor))
        if fx_node is None and id(tensor) in self._routes:
            fx_node = self._routes[id(tensor)][0]
        return None if fx_node is None else fx_node.name

    def name_of(self, tensor: torch.Tensor) -> str | None:
        """The same, without the functions that returned the tensor as they got it."""
        return self._kept_names.get(id(tensor)) or self.maker_of(tensor)

    def value_of(self, seen: TensorSnapshot | OpArgument) -> Value | None:
        """The fx node that had made a tensor at one moment of the run, and which of its results it was."""
        if seen.producer is None:
            name = self._first_makers.get(id(seen.tensor)) or self.maker_of(seen.tensor)
            return None if name is None else Value(name)
        number, position = seen.producer
        if number in self._hook_functions:  # the identity: the value is that of its argument
            argument = self._hook_functions[number].results[position].shares
            return None if argument is None else self.value_of(argument)
        fx_node = self.node_of_call.get(number)
        if fx_node is None:
            return None
        return Value(fx_node.name, position if len(self.origins[fx_node].results) > 1 else None)

    def named_nodes(self) -> list[tuple[int, fx.Node]]:
        """The fx nodes of placeholders, attributes and constants, by the identity of their tensor."""
        return [(key, node) for key, node in self._fx_nodes.items() if node.op in ("placeholder", "get_attr")]


def _detach(value: Any) -> Any:
    """A constant as the graph holds it: a tensor of its own, in the same memory; a parameter is none of the graph's."""
    if not is_a(value, torch.Tensor):
        return value
    try:
        return value.detach().requires_grad_(value.requires_grad)
    except Exception:  # the user's own class
        return value


def _extract_metadata(tensor: torch.Tensor, shape: tuple[int, ...] | None) -> TensorMetadata | None:
    """What fx says of a tensor as it is now, with the shape that it had, if that is known; None for a strided nested one."""
    try:
        found = _extract_tensor_metadata(tensor)
    except (NotImplementedError, RuntimeError):  # it has no shape
        return None
    return found if shape is None else found._replace(shape=torch.Size(shape))


def _make_metadata(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: str,
    requires_grad: bool,
) -> TensorMetadata:
    """The same of a tensor that may have changed since. fx's own function imports sympy, which takes half a second."""
    with torch._C.DisableTorchFunction():
        tensor = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device="meta")
        formats = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
        memory_format = next((each for each in formats if tensor.is_contiguous(memory_format=each)), None)
    return TensorMetadata(tensor.shape, tensor.dtype, requires_grad, stride, memory_format, False, {})


# Running it again


@dataclass(frozen=True)
class RecordedForward:
    """The recorded ``torch.fx.Graph``, with what it needs to run again.

    ``constants`` are the attributes that no model has, ``written`` the names of the parameters and buffers that the run
    changed in place; ``refusal`` says why no GraphModule can repeat it.
    """

    graph: fx.Graph
    constants: Mapping[str, Any]
    written: frozenset[str]
    refusal: str | None = None

    def module(self, model: nn.Module) -> fx.GraphModule:
        """A GraphModule that runs the graph with the values that `model` has.

        Its parameters share their memory with those of the model, but have gradients and hooks of their own. Buffers, and
        parameters that the graph changes in place (as an Embedding with ``max_norm`` does), are copied.
        Raises UsageError for a model without one of them, and for a run that such a graph cannot express.
        """
        if self.refusal is not None:
            raise UsageError(
                f"a forward that cannot be replayed: {self.refusal}",
                (
                    "tensor operations in the caller's modes and random state, and an output in containers that "
                    "torch.utils._pytree knows"
                ),
                "run the model itself, or return tensors in tuples, lists and dicts",
            )
        names = dict.fromkeys(str(fx_node.target) for fx_node in self.graph.nodes if fx_node.op == "get_attr")
        own = self._take_from(model, [name for name in names if name not in self.constants])
        return _graph_module({name: self.constants.get(name, own.get(name)) for name in names}, self.graph)

    def _take_from(self, model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
        """The model's parameters and buffers of these names: in its memory, or copied where the graph may write."""
        parameters, buffers = dict(list_tensor_paths(model, "_parameters")), dict(list_tensor_paths(model, "_buffers"))
        found: dict[str, torch.Tensor] = {}
        for name in names:
            tensor = parameters.get(name, buffers.get(name))
            if tensor is None:
                raise UsageError(
                    f"a model without the parameter or buffer {name}, which the recorded forward uses",
                    "the model that was traced, or one with the same parameters and buffers",
                    "pass the model that was traced",
                )
            found[name] = tensor
        detached = {name: tensor.detach() for name, tensor in found.items()}
        # one deep copy, so that what shares its memory still does
        detached |= copy.deepcopy({name: detached[name] for name in names if name in buffers or name in self.written})
        return {
            name: nn.Parameter(detached[name], tensor.requires_grad)
            if name in parameters
            else detached[name].requires_grad_(tensor.requires_grad)
            for name, tensor in found.items()
        }


def _graph_module(attributes: Mapping[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A module that runs a copy of the graph."""
    names = _free_names(attributes)
    copied = copy.deepcopy(graph)
    for fx_node in copied.nodes:
        if fx_node.op == "get_attr":
            fx_node.target = names[fx_node.target]
    return fx.GraphModule({names[name]: value for name, value in attributes.items()}, copied, "RecordedForward")


def _free_names(names: Collection[str]) -> dict[str, str]:
    """Where a GraphModule can hold what has these names: it has a ``graph`` and a ``code`` of its own."""
    own = fx.GraphModule({}, fx.Graph())
    prefix = "model_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return {name: prefix + name if hasattr(own, name.partition(".")[0]) else name for name in names}

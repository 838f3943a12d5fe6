"""The recorded forward as a real ``torch.fx.Graph``.

``torch.fx.symbolic_trace`` runs a model on proxies: it fails on data-dependent code and inlines modules without their
hooks. This graph is made from the calls of a real run. Tensors are tied to fx nodes by identity; results that hold no
tensor (sizes, ``item()``) are constants of that run.

Sources relied on: torch/fx/graph.py (how arguments are printed as code), torch/fx/_symbolic_trace.py (names of
placeholders, nn_module_stack), torch/fx/passes/shape_prop.py (TensorMetadata), torch/utils/_pytree.py.
"""

from __future__ import annotations

import builtins
import cmath
import dataclasses
import enum
import functools
import keyword
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.graph import _is_from_torch
from torch.fx.node import _get_qualified_name
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils import _pytree as pytree

from fxgrad.errors import UsageError
from fxgrad.graph import Value
from fxgrad.graph.text import escape
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.frames import stack_trace
from fxgrad.observe.function_calls import stride_of
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.forward_module import RecordedForward, memory_of
from fxgrad.observe.seen import Earlier, SeenFunctionCall, SeenModuleCall, SeenResult, SeenTensor
from fxgrad.observe.structure import Route, routes_in, routes_to
from fxgrad.observe.tensor_log import may_have_history

ModuleStack = dict[str, tuple[str, type]]
Operation = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""op, target, args and kwargs, as ``torch.fx.Graph.create_node`` takes them."""

_DEEPEST = 20


class FxOrigin(NamedTuple):
    """What an fx node was made for.

    ``event``   the recorded call that it is, or that it prepares
    ``is_call``  whether it is that call itself
    ``results``  the tensors that it gives, as they were then
    ``window``  autograd's sequence numbers before and after
    """

    event: SeenFunctionCall | None
    is_call: bool
    results: Sequence[SeenResult]
    window: tuple[int, int] | None


class ForwardGraph:
    """A ``torch.fx.Graph`` under construction, and which fx node each call and each tensor became.

    `attributes` are the names of the model's parameters and buffers by their identity. ``refusal`` says why no
    ``GraphModule`` can repeat the run, if none can: operations on tensors, parameters and plain values do not tell all.
    """

    def __init__(
        self,
        recorder: ForwardRecorder,
        attributes: Mapping[int, str],
        call_names: Mapping[SeenModuleCall, tuple[str, type]],
    ) -> None:
        self.graph = fx.Graph()
        self.node_of_call: dict[int, fx.Node] = {}
        self.origins: dict[fx.Node, FxOrigin] = {}
        self.refusal = recorder.functions.refusal
        self._recorder = recorder
        self._attributes = attributes
        self._names = set(attributes.values())
        self._call_names = call_names
        self._constants: dict[str, Any] = {}
        self._fx_nodes: dict[int, fx.Node] = {}
        self._routes: dict[int, tuple[fx.Node, Route]] = {}
        self._members: dict[fx.Node, Sequence[SeenResult]] = {}
        self._arguments: list[torch.Tensor] = []
        self._attribute_nodes: dict[str, fx.Node] = {}
        self._first_makers: dict[int, str | None] = {}
        self._hook_functions: dict[int, SeenFunctionCall] = {}
        self._targets: dict[int, tuple[Any, Any]] = {}
        self._metadata: dict[tuple[object, ...], TensorMetadata] = {}
        self._grad_enabled = recorder.grad_enabled
        self._event: SeenFunctionCall | None = None
        self._end = 0

    # Inputs

    def add_placeholders(self, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Add one placeholder per argument; the tensors inside an argument are reached from it when they are used."""
        plain = [name for name in kwargs if name.isidentifier() and not keyword.iskeyword(name)]
        values = [*zip(placeholder_names(names, plain), args, strict=True), *[(name, kwargs[name]) for name in plain]]
        odd = {name: value for name, value in kwargs.items() if name not in plain}
        if odd:
            values.append(("**keywords", odd))
        for name, value in values:
            placeholder = self.graph.placeholder(name)
            tensors = routes_in(value)
            self._arguments += [tensor for _, tensor in tensors]
            self._members[placeholder] = [self._first_seen(route, tensor) for route, tensor in tensors]
            for route, member in [*tensors, *routes_to(torch.Generator, value)]:
                self._routes.setdefault(id(member), (placeholder, route))

    def _first_seen(self, route: Route, tensor: torch.Tensor) -> SeenResult:
        meta = self._recorder.log.first_meta(tensor)
        stride = stride_of(tensor) if meta == self._recorder.metas.of_tensor(tensor) else None
        return SeenResult(route, tensor, meta, stride, tensor.requires_grad, None)

    # Calls

    def add_call(self, number: int, event: SeenFunctionCall) -> None:
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
        op, target, args, kwargs = operation(event)
        if op == "call_function":
            target = self._target(target)
        arguments = tuple([self._convert(value) for value in args])
        keywords = {name: self._convert(value) for name, value in kwargs.items()}
        fx_node = self.graph.create_node(op, target, arguments, keywords)
        self.node_of_call[number] = fx_node
        self._describe(fx_node, event.results, is_call=True)
        for result in event.results:
            self._first_makers.setdefault(id(result.tensor), self.maker_of(result.tensor))
            self._routes[id(result.tensor)] = (fx_node, result.route)
            self._fx_nodes.pop(id(result.tensor), None)
        self._members[fx_node] = event.results

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
            return stand_in(function)
        if not is_plain(function) and not is_a(getattr(function, "__self__", None), type):
            self._refuse(f"it calls {escape(name_of_function(function))}, a function that may hold tensors of the run")
            return stand_in(function)
        return with_its_name(function)

    def _add_function(self, function: Any, *args: Any, results: Sequence[SeenResult] = ()) -> fx.Node:
        """Add a call that no recorded call stands for."""
        return self._describe(self.graph.call_function(function, args), results)

    def _describe(self, fx_node: fx.Node, results: Sequence[SeenResult], *, is_call: bool = False) -> fx.Node:
        event = self._event
        start = self._end if event is None else event.window[0]
        window = event.window if is_call and event is not None else (start, start)
        self.origins[fx_node] = FxOrigin(event, is_call, results, window)
        found = [self._tensor_metadata(result) for result in results]
        fx_node.meta["nn_module_stack"] = {} if event is None else self._module_stack(event.module_call)
        fx_node.meta["stack_trace"] = "" if event is None else stack_trace(event.stack)
        fx_node.meta["sequence_window"] = window
        fx_node.meta["tensor_meta"] = found[0] if len(found) == 1 else tuple(found) or None
        return fx_node

    def _module_stack(self, call: SeenModuleCall | None) -> ModuleStack:
        stack = []
        while call is not None:
            stack.append(self._call_names[call])
            call = call.parent
        return {path: (path, kind) for path, kind in reversed(stack)}

    def _tensor_metadata(self, result: SeenResult) -> TensorMetadata | None:
        """What ``torch.fx.passes.shape_prop`` says of a tensor, as it was then. Models repeat few different ones."""
        meta, stride = result.meta, result.stride
        shape = None if meta.shape is None else tuple([size for size in meta.shape if type(size) is int])
        is_plain = stride is not None and shape == meta.shape and not meta.dtype.startswith("q")  # quantized: qint8 …
        if stride is None or shape is None or not is_plain:
            return tensor_metadata(result.tensor, shape if shape == meta.shape else None)
        key = shape, stride, meta.dtype, result.requires_grad
        if key not in self._metadata:
            self._metadata[key] = strided_metadata(*key)
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
        tensors = routes_in(value)
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
            fx_node = self._add_function(function, fx_node, key, results=members)
        return fx_node

    def _get_attr(self, name: str) -> fx.Node:
        if name not in self._attribute_nodes:
            self._attribute_nodes[name] = self.graph.create_node("get_attr", name)
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
        memories = {memory_of(each.tensor) for event in recorder.function_calls for each in event.changes}

        def is_changed(tensor: torch.Tensor) -> bool:
            return bool(changed) and (id(tensor) in changed or memory_of(tensor) in memories)

        constants = [value for value in self._constants.values() if is_a(value, torch.Tensor)]
        if any(map(is_changed, constants)):
            self._refuse("it changes a tensor in place that is no parameter, buffer or argument of the model")
        if any(map(may_have_history, constants)):
            self._refuse("it uses a tensor with a history that no recorded operation made")
        own = [tensor for tensor in log.kept if id(tensor) in self._attributes]
        written = {self._attributes[id(tensor)]: memory_of(tensor) for tensor in own if is_changed(tensor)}
        if any(is_changed(argument) and memory_of(argument) in written.values() for argument in self._arguments):
            self._refuse("it changes memory that an argument shares with a parameter or buffer")
        if any(log.has_changed(tensor) and not is_changed(tensor) for tensor in (*own, *self._arguments, *constants)):
            self._refuse("it changes a tensor in place where no recorded operation shows it")
        return frozenset(written)

    # Questions

    def maker_of(self, tensor: torch.Tensor) -> str | None:
        """The name of the fx node that made a tensor, at the end of the run; None where none did."""
        fx_node = self._fx_nodes.get(id(tensor))
        if fx_node is None and id(tensor) in self._routes:
            fx_node = self._routes[id(tensor)][0]
        return None if fx_node is None else fx_node.name

    def value_of(self, seen: SeenTensor | Earlier) -> Value | None:
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


# Which operation a call is


def operation(event: SeenFunctionCall) -> Operation:
    """What an fx node for the call does."""
    target, args, kwargs = event.target, event.args, event.kwargs
    if is_a(target, type):
        return "call_function", target.apply, args, kwargs  # type: ignore[attr-defined]
    name = getattr(target, "__name__", "")
    owner = getattr(target, "__self__", None)
    if name == "__get__":
        return "call_function", getattr, (args[0], owner.__name__), {}  # type: ignore[union-attr]
    if name == "__set__":
        return "call_function", setattr, (args[0], owner.__name__, *args[1:]), {}  # type: ignore[union-attr]
    if args and is_a(args[0], torch.Tensor):
        method = _method_name(target, name)
        if method is not None:
            return _method(method, args, kwargs)
    return "call_function", target, args, kwargs


def _method_name(target: Any, name: str) -> str | None:
    """The attribute of Tensor that the function is; ``Tensor.__pow__`` calls itself "pow" (torch/_tensor.py)."""
    candidates = (name, f"__{name}__", f"__r{name}__", f"__i{name}__")
    return next((each for each in candidates if each and getattr(torch.Tensor, each, None) is target), None)


def _method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
    """``x.__rsub__(1)`` becomes ``operator.sub(1, x)``, as torch.fx writes it; other methods stay methods.

    ``x.__rpow__(-2)`` stays one, too: torch.fx writes the operator as ``-2 ** x``, which Python reads as ``-(2 ** x)``.
    """
    if not (name.startswith("__") and name.endswith("__")) or kwargs:
        return "call_method", name, args, kwargs
    bare = name.strip("_")
    if hasattr(operator, name):
        return "call_function", getattr(operator, bare, getattr(operator, name)), args, kwargs
    is_reflected = len(args) == 2 and bare.startswith("r") and hasattr(operator, f"__{bare[1:]}__")  # noqa: PLR2004
    if is_reflected and not (bare == "rpow" and str(args[1]).startswith("-")):
        return "call_function", getattr(operator, f"__{bare[1:]}__"), args[::-1], kwargs
    return "call_method", name, args, kwargs


def with_its_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a wrapper of it where the name that torch.fx would write for it does not lead to it."""
    try:
        name = _get_qualified_name(function)
        if not _is_from_torch(function) or _leads_to(function, name):
            return function
    except Exception:  # it looks through modules, which may be the user's
        pass

    def recorded(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    recorded.__name__ = recorded.__qualname__ = name_of_function(function)
    return recorded


def stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same name, which nothing of the run hangs on. It cannot be called."""
    name = name_of_function(function)

    def recorded(*_: Any, **__: Any) -> Any:
        raise UsageError(
            f"a call of {escape(name)}, a function that ran once and was not kept",
            "to look at the recorded graph",
            "run the model itself",
        )

    recorded.__name__ = recorded.__qualname__ = name
    return recorded


def name_of_function(function: Any) -> str:
    """What a function or class calls itself; else the name of its class."""
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    return str.__str__(name) if is_a(name, str) else type(function).__name__


def _leads_to(function: Callable[..., Any], name: str) -> bool:
    """Whether code in a module that imports torch finds the function under its dotted name."""
    first, *rest = name.split(".")
    found: Any = torch if first == "torch" else vars(builtins).get(first)
    for part in rest:
        found = getattr(found, part, None)
    return bool(found == function)


# Which values fx can hold

_LITERALS = frozenset(
    {
        *(int, float, bool, str, bytes, type(None), type(...)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    }
)
"""Exactly these types: a subclass (an enum's member, numpy.float64) has a repr() of its own."""
_PLAIN = (
    *(int, float, complex, str, bytes, range, enum.Enum, torch.Size, pytree.TreeSpec),
    *(type, ModuleType, MethodDescriptorType, WrapperDescriptorType, torch._C.ScriptFunction),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator),
)
"""Classes whose objects hold no tensor, or none that is theirs alone: a module's globals are the program's."""


def is_literal(value: Any) -> bool:
    """Whether the value's repr() in the code of a GraphModule makes it again.

    >>> is_literal(1.5), is_literal(torch.float32), is_literal(complex("inf")), is_literal(print)
    (True, True, False, False)
    >>> is_literal(1 - 2j), is_literal(complex(-0.0, 2))  # read from code, a negative zero before a sign is lost
    (True, False)
    """
    if type(value) is complex:
        return cmath.isfinite(value) and all(part or math.copysign(1, part) > 0 for part in (value.real, value.imag))
    return type(value) in _LITERALS


def is_plain(value: Any) -> bool:
    """Whether a value is known to hold no tensor, so that keeping it keeps nothing of a run.

    Functions are looked into: a closure, or a default, may hold a tensor that the run has made.

    >>> is_plain([1, {"a": slice(2)}]), is_plain(torch.add), is_plain(lambda x: x + 1)
    (True, True, True)
    >>> tensor = torch.ones(2)
    >>> is_plain(tensor.add), is_plain(lambda x, y=tensor: x + y), is_plain(torch.nn.ReLU())
    (False, False, False)
    """
    entered: dict[int, Any] = {}
    stack = [value]
    while stack:
        part = stack.pop()
        if id(part) in entered or is_literal(part) or is_a(part, _PLAIN):
            continue
        members = None if is_a(part, torch.Tensor) else _members(part)
        if members is None and not _is_numpy(part):
            return False
        entered[id(part)] = part
        stack += members or ()
    return True


def _members(part: Any) -> Sequence[Any] | None:
    """What a container or a function holds; None for any other object."""
    kind = type(part)
    if kind in (tuple, list, set, frozenset):
        return [*part]
    if kind is dict:
        return [*part.keys(), *part.values()]
    if kind is slice:
        return [part.start, part.stop, part.step]
    if kind is functools.partial:
        return [part.func, part.args, part.keywords]
    if kind is FunctionType:
        cells = [cell.cell_contents for cell in part.__closure__ or () if _is_filled(cell)]
        return [*cells, part.__defaults__, part.__kwdefaults__]
    if kind is BuiltinFunctionType:
        return [part.__self__]
    return _fields(part) if dataclasses.is_dataclass(kind) else None


def _fields(part: Any) -> Sequence[Any] | None:
    try:
        slots = [getattr(part, field.name, None) for field in dataclasses.fields(part)]
        return [*slots, *getattr(part, "__dict__", {}).values()]
    except Exception:  # the user's own class
        return None


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not assigned yet
        return False


def _is_numpy(value: Any) -> bool:
    """An array or a number of numpy's, not one of objects."""
    dtype = getattr(value, "dtype", None)
    return type(value).__module__ == "numpy" and not getattr(dtype, "hasobject", True)


def flatten(value: Any) -> tuple[list[Any], pytree.TreeSpec | None]:
    """The leaves of a container that PyTorch knows how to rebuild, and how; None for any other."""
    try:
        leaves, spec = pytree.tree_flatten(value)
    except Exception:  # the user's own class, or a list that holds itself
        return [], None
    return leaves, None if spec.is_leaf() else spec


def _detach(value: Any) -> Any:
    """A constant as the graph holds it: a tensor of its own, in the same memory; a parameter is none of the graph's."""
    if not is_a(value, torch.Tensor):
        return value
    try:
        return value.detach().requires_grad_(value.requires_grad)
    except Exception:  # the user's own class
        return value


# What fx nodes say of tensors


def tensor_metadata(tensor: torch.Tensor, shape: tuple[int, ...] | None) -> TensorMetadata | None:
    """What fx says of a tensor as it is now, with the shape that it had, if that is known; None for a strided nested one."""
    try:
        found = _extract_tensor_metadata(tensor)
    except (NotImplementedError, RuntimeError):  # it has no shape
        return None
    return found if shape is None else found._replace(shape=torch.Size(shape))


def strided_metadata(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: str,
    requires_grad: bool,
) -> TensorMetadata:
    """The same of a tensor that may have changed since."""
    with torch._C.DisableTorchFunction():
        tensor = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device="meta")
    return _extract_tensor_metadata(tensor)._replace(requires_grad=requires_grad)


def placeholder_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names for positional placeholders: identifiers, each different, and none like a keyword argument's.

    >>> placeholder_names(["input", "rest[0]", "mask"], ["mask"])
    ['input', 'rest_0', 'mask_']
    """
    used = {"self", *taken}
    found = []
    for name in names:
        made = name.replace("[", "_").replace("]", "").replace(" ", "_")
        while made in used or keyword.iskeyword(made):
            made += "_"
        used.add(made)
        found.append(made)
    return found

"""The recorded forward as a real ``torch.fx.Graph``.

``torch.fx.symbolic_trace`` runs a model on proxies: it fails on data-dependent code and inlines modules without their
hooks. This graph is made from the calls of a real run. Tensors are tied to fx nodes by identity; results that hold no
tensor (sizes, ``item()``) are constants of that run.

Sources relied on: torch/fx/graph.py, torch/fx/_symbolic_trace.py (names of placeholders, nn_module_stack),
torch/fx/passes/shape_prop.py (TensorMetadata).
"""

from __future__ import annotations

import keyword
import operator
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.nn.modules._functions import BackwardHookFunction

from fxgrad.graph import TensorMeta, Value
from fxgrad.graph.text import escape
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.frames import stack_trace
from fxgrad.observe.fx_literals import is_literal, is_misread, is_plain_tree
from fxgrad.observe.fx_modes import RerunModes
from fxgrad.observe.fx_operations import operation, placeholder_names, tensor_metas
from fxgrad.observe.memory_copies import Window, copy_of, memory_key, window_of
from fxgrad.observe.real_types import is_a
from fxgrad.observe.seen import Earlier, SeenFunctionCall, SeenModuleCall, SeenTensor
from fxgrad.observe.structure import Route, routes_in, routes_to
from fxgrad.observe.templates import filled, template_of
from fxgrad.observe.tracebacks import message_of

ModuleStack = dict[str, tuple[str, type]]


class Made(NamedTuple):
    """What an fx node was made for: the recorded call, or the call that it prepares; the tensors that it gives, and how
    they were then."""

    seen: SeenFunctionCall | None
    tensors: Sequence[torch.Tensor]
    metas: Sequence[TensorMeta]
    window: tuple[int, int] | None


Members = Sequence[tuple[Route, torch.Tensor, TensorMeta]]
"""The tensors in an argument or a result: how each is reached, and what it was like then."""


class ForwardGraph:
    """A ``torch.fx.Graph`` under construction, and which fx node each call and each tensor became.

    ``windows`` says of constants in the memory of a parameter or buffer whose memory it is, and which part of it;
    ``unfit`` why the finished graph cannot be run again, where it cannot.
    """

    def __init__(
        self,
        recorder: ForwardRecorder,
        attributes: Mapping[int, str],
        call_names: Mapping[SeenModuleCall, tuple[str, type]],
    ) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self.node_of_call: dict[int, fx.Node] = {}
        self.made_for: dict[fx.Node, Made] = {}
        mode = recorder.functions.dispatch_mode
        self.unfit = None if mode is None else f"the dispatch mode {mode} had a hand in what its operations gave"
        self._attributes = attributes
        self._taken = set(attributes.values())
        self.windows: dict[str, tuple[str, Window]] = {}
        kept = [tensor for tensor in recorder.log.kept if id(tensor) in attributes]
        self._memories = {memory_key(tensor): attributes[id(tensor)] for tensor in reversed(kept)}
        self._memories.pop(None, None)
        self._copies = {id(tensor): copy for tensor, copy in recorder.log.copies}
        self._call_names = call_names
        self._fx_nodes: dict[int, fx.Node] = {}
        self._routes: dict[int, tuple[fx.Node, Route]] = {}
        self._members: dict[fx.Node, Members] = {}
        self._first_meta = recorder.log.first_meta
        self._attribute_nodes: dict[str, fx.Node] = {}
        self._originals: dict[int, str | None] = {}
        self._hook_functions: dict[int, SeenFunctionCall] = {}
        self._made_functions = recorder.functions.made_functions
        self._generators = recorder.functions.generators
        self._last_random = recorder.last_random
        last_uses = {seen.surroundings.cast_cache: number for number, seen in enumerate(recorder.function_calls)}
        graph = weakref.proxy(self)  # in a circle the activations would stay until the garbage collector comes
        self._modes = RerunModes(
            recorder.modes,
            last_uses,
            lambda *call: graph._function(*call),  # noqa: PLW0108  # a bound method holds its object
            lambda value: graph._constant(value),  # noqa: PLW0108
        )
        self._current: SeenFunctionCall | None = None
        self._in_output = False
        self._end = 0

    # Inputs

    def add_placeholders(self, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """One placeholder per argument; the tensors inside an argument are reached from it when they are used."""
        plain = [name for name in kwargs if name.isidentifier() and not keyword.iskeyword(name)]
        values = [*zip(placeholder_names(names, plain), args, strict=True), *[(name, kwargs[name]) for name in plain]]
        odd = {name: value for name, value in kwargs.items() if name not in plain}
        if odd:
            values.append(("**keywords", odd))
        for name, value in values:
            placeholder = self.graph.placeholder(name)
            self._members[placeholder] = self._members_in(value)
            for route, member in [*routes_in(value), *routes_to(torch.Generator, value)]:
                self._routes.setdefault(id(member), (placeholder, route))

    def _members_in(self, value: Any) -> Members:
        return [(route, tensor, self._first_meta(tensor)) for route, tensor in routes_in(value)]

    # Calls

    def add_call(self, number: int, seen: SeenFunctionCall) -> None:
        """Append one recorded call. A BackwardHookFunction is the identity, so it adds none."""
        self._current = seen
        self._end = seen.window[1]
        if seen.target is BackwardHookFunction:
            self._hook_functions[number] = seen
            for argument, (_, result) in zip(seen.args, seen.results, strict=True):
                self._fx_nodes[id(result)] = self.fx_node_of(argument)
            return
        if seen.target is torch._C._set_grad_enabled:
            return  # not all changes of the grad mode can be seen: each call knows the mode that it ran in
        self._modes.set(number, seen.surroundings, grad=seen.differentiable)
        op, target, args, kwargs = operation(seen)
        arguments = tuple([self._argument_or_constant(value) for value in args])
        if op == "call_function" and is_misread(target, arguments):
            arguments = (self._constant(args[0]), *arguments[1:])
        keywords = {name: self._argument_or_constant(value) for name, value in kwargs.items()}
        fx_node = self.graph.create_node(op, target, arguments, keywords)
        self.node_of_call[number] = fx_node
        members = [(route, tensor, meta) for (route, tensor), meta in zip(seen.results, seen.metas, strict=True)]
        self._describe(fx_node, members, seen.window)
        for route, tensor in seen.results:
            self._originals.setdefault(id(tensor), self.made(tensor))
            self._routes[id(tensor)] = (fx_node, route)
            self._fx_nodes.pop(id(tensor), None)
        self._members[fx_node] = members

    def _describe(self, fx_node: fx.Node, members: Members, window: tuple[int, int] | None = None) -> fx.Node:
        seen = self._current
        if window is None:
            start = self._end if seen is None else seen.window[0]
            window = start, start
        tensors, metas = [tensor for _, tensor, _ in members], [meta for _, _, meta in members]
        self.made_for[fx_node] = Made(seen, tensors, metas, window)
        fx_node.meta["nn_module_stack"] = {} if seen is None else self._module_stack(seen.module_call)
        fx_node.meta["stack_trace"] = "" if seen is None else stack_trace(seen.stack)
        fx_node.meta["sequence_window"] = window
        fx_node.meta["tensor_meta"] = tensor_metas(tensors, metas)
        return fx_node

    def _module_stack(self, call: SeenModuleCall | None) -> ModuleStack:
        stack = []
        while call is not None:
            stack.append(self._call_names[call])
            call = call.parent
        return {path: (path, kind) for path, kind in reversed(stack)}

    def _function(self, function: Any, *args: Any, members: Members = ()) -> fx.Node:
        """A call that no recorded call stands for."""
        return self._describe(self.graph.call_function(function, args), members)

    # Values

    def argument(self, value: Any) -> Any:
        """The same value with fx nodes for tensors; what fx cannot write down is a constant, or made of a template."""
        if not is_plain_tree(value):
            return self._of_other_class(value)
        return self._converted(value)

    def _argument_or_constant(self, value: Any) -> Any:
        try:
            return self.argument(value)
        except Exception:  # the user's own class cannot be copied
            return self._constant(value)

    def _converted(self, value: Any) -> Any:
        if is_a(value, torch.Tensor):
            return self.fx_node_of(value)
        if type(value) in (tuple, list):
            return type(value)([self._converted(member) for member in value])
        if type(value) is dict:
            return {key: self._converted(member) for key, member in value.items()}
        if type(value) is slice:
            return slice(*[self._converted(part) for part in (value.start, value.stop, value.step)])
        if type(value) is torch.Size and not self._is_users():
            return tuple(value)  # as good for a function of torch
        return value if is_literal(value) else self._made_by_program(value) or self._of_other_class(value)

    def _is_users(self) -> bool:
        """Whether the user's code gets the value: the output, and arguments of a Function."""
        return self._current is None or is_a(self._current.target, type)

    def _made_by_program(self, value: Any) -> fx.Node | None:
        """What the run's own calls, or its arguments, give anew: functions that they made, generators."""
        made = self._made_functions.get(id(value))
        if made is not None:
            return self._reach(self.node_of_call[made.call], made.route)
        given = self._generators.get(id(value))
        place = None if given is None else self._routes.get(id(given[1]))
        return None if place is None else self._reach(*place)

    def _of_other_class(self, value: Any) -> fx.Node:
        """A constant, where there are no tensors in it. In the output also what cannot be looked into may hold some."""
        if not self._in_output and not routes_in(value):
            return self._constant(value)
        template, tensors = template_of(value)
        if not tensors:
            return self._constant(value)
        members = self._members_in(value) or self._members_in(tensors)
        fx_nodes = [self.fx_node_of(tensor) for tensor in tensors]
        return self._function(filled, self._constant(template), *fx_nodes, members=members)

    def fx_node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The fx node whose result the tensor is; made now where it is an attribute, a constant or part of a result."""
        known = self._fx_nodes.get(id(tensor))
        if known is None:
            known = self._fx_nodes[id(tensor)] = self._make(tensor)
        return known

    def _make(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) in self._routes:
            return self._reach(*self._routes[id(tensor)])
        if id(tensor) in self._attributes:
            return self._get_attr(self._attributes[id(tensor)])
        copied = self._copies.get(id(tensor))
        constant = self._constant(copy_of(tensor) if copied is None else copied)
        attribute = self._memories.get(memory_key(tensor))
        if attribute is not None:
            self.windows[str(constant.target)] = attribute, window_of(tensor)
        return constant

    def _reach(self, fx_node: fx.Node, route: Route) -> fx.Node:
        """The part of a result, or of an argument, that the steps lead to."""
        members = self._members.get(fx_node, ())
        for depth, step in enumerate(route):
            members = [member for member in members if member[0][depth].position == step.position]
            key = step.key if is_literal(step.key) else self._constant(step.key)
            function = getattr if step.is_attribute else operator.getitem
            fx_node = self._function(function, fx_node, key, members=members)
        return fx_node

    def _get_attr(self, name: str) -> fx.Node:
        if name not in self._attribute_nodes:
            self._attribute_nodes[name] = self.graph.create_node("get_attr", name)
        return self._attribute_nodes[name]

    def _constant(self, value: Any) -> fx.Node:
        name = f"_constant{len(self.constants)}"
        while name in self._taken:
            name += "_"
        self.constants[name] = value
        return self._get_attr(name)

    # Output

    def add_output(self, value: Any) -> None:
        """Finish the graph: it returns what the model returned, in the same containers."""
        self._current = None
        self._in_output = True
        self._modes.leave(self._last_random)
        try:
            result = self.argument(value)
        except Exception as error:  # the user's own class cannot be copied: its tensors alone
            told = f"{escape(type(error).__name__)}: {message_of(error)}"
            self.unfit = self.unfit or f"its output holds what cannot be copied ({told})"
            result = tuple([self.fx_node_of(tensor) for _, tensor in routes_in(value)])
        self.graph.output(result)

    # Questions

    def made(self, tensor: torch.Tensor) -> str | None:
        """The name of the fx node that made a tensor, at the end of the run; None where none did."""
        fx_node = self._fx_nodes.get(id(tensor))
        if fx_node is None and id(tensor) in self._routes:
            fx_node = self._routes[id(tensor)][0]
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
        return Value(fx_node.name, position if len(self.made_for[fx_node].tensors) > 1 else None)

    def named_nodes(self) -> list[tuple[int, fx.Node]]:
        """The fx nodes of placeholders, attributes and constants, by the identity of their tensor."""
        return [(key, node) for key, node in self._fx_nodes.items() if node.op in ("placeholder", "get_attr")]

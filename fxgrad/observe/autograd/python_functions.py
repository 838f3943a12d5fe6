"""The node of a Python autograd Function: its gradients are named by the parameters of ``forward``, and the code of its
``backward`` tells which of them it returns, and whether it reads what was saved.

torch/csrc/autograd/python_function.cpp (``THPFunction_apply``, ``unpack_input``) makes an entry of ``needs_input_grad``
for each positional argument of ``apply`` and an edge for each that is a tensor, but does not show which ones are. The
edges that lead somewhere match the True entries one by one; the null edges between two of these have names where the
arguments in between leave no choice.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch._library.autograd import make_autograd_impl
from torch.autograd.function import FunctionMeta, _SingleLevelFunction
from torch.utils._pytree import TreeSpec, tree_unflatten

from fxgrad.graph import Returned, ReturnError
from fxgrad.graph.records import Status
from fxgrad.observe.autograd.argument_names import UNNAMED, EdgeName, name_results
from fxgrad.observe.autograd.backward_code import (
    ANYTHING,
    MAYBE_TENSOR,
    NONE,
    ONE,
    TENSOR,
    Answers,
    KnownValue,
    ValueKind,
    describe_constant,
    read_returned_kinds,
)
from fxgrad.observe.autograd.nested_backward import find_backward
from fxgrad.observe.autograd.python_code import closure_of, find_definition, unwrap_backward
from fxgrad.observe.real_types import is_a

_TENSOR_TYPES = {"Tensor": True, "Optional[Tensor]": None}
"""Whether an argument of a type is a tensor; None: it may be."""

_Candidates = tuple[int, ...]
Places = Mapping[str, int | Sequence[int]]
"""Where the value of each name is in a flat sequence: its index, or the indices of its members."""


@dataclass(frozen=True, slots=True)
class CustomSignature:
    """What is known of the node of a Python Function.

    ``schema``            that of the operator, where the Function is the backward of one registered from Python
    ``arguments``         for each edge the parameter of ``forward``, ``rest[0]`` for the first of ``*rest``; None where
                          it is not known
    ``groups``            for each edge the parameter that it is a member of, ``rest``
    ``outputs``           for each grad_output slot, that is for each value that ``forward`` returned, a name
    ``needs_input_grad``  a bool for each positional argument; None where the user's code has put something else there
    ``places``            for each edge which of these arguments it may belong to: one, where that is known
    """

    schema: str | None
    arguments: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    outputs: tuple[str, ...]
    needs_input_grad: tuple[bool, ...] | None
    places: tuple[_Candidates, ...]


class _Parameter(NamedTuple):
    """What a positional argument of ``apply`` is; ``is_tensor`` is None for one that may be a tensor or not."""

    name: EdgeName = UNNAMED
    is_tensor: bool | None = None


_KNOWN_PARAMETERS: WeakKeyDictionary[Callable[..., object], dict[range, list[_Parameter]]] = WeakKeyDictionary()


def read_custom_signature(node: torch._C._FunctionBase) -> CustomSignature:
    """Name the edges and the grad_output slots of a node whose backward is Python code.

    There are no names for Functions that PyTorch makes on the fly, like AOTAutograd's ``CompiledFunction``.
    """
    forward_class = getattr(type(node), "_forward_cls", None)
    operator = _registered_operator(forward_class)
    needs_input_grad = _needs_input_grad(node)
    n_arguments = len(needs_input_grad or ())
    parameters = (
        _forward_parameters(forward_class, n_arguments)
        if operator is None
        else _operator_parameters(operator, node, n_arguments)
    )
    places = _edge_places(parameters, needs_input_grad, node)
    names = [parameters[place[0]].name if len(place) == 1 else UNNAMED for place in places]
    return CustomSignature(
        None if operator is None else str(operator._schema),
        tuple([argument for argument, _ in names]),
        tuple([group for _, group in names]),
        _output_names(operator, node),
        needs_input_grad,
        tuple(places),
    )


def _needs_input_grad(node: torch._C._FunctionBase) -> tuple[bool, ...] | None:
    value: object = node.needs_input_grad
    return value if type(value) is tuple and all(is_a(entry, bool) for entry in value) else None


def _edge_places(
    parameters: Sequence[_Parameter], needs_input_grad: tuple[bool, ...] | None, node: torch._C._FunctionBase
) -> list[_Candidates]:
    """For each edge the places of the arguments that it may belong to.

    That is any argument where the edges do not match: the user's code may write needs_input_grad, and it is True for a
    view taken before its base required grad, although no edge leads to such a view (DifferentiableViewMeta::requires_grad).
    """
    connected = [next_node is not None for next_node, _ in node.next_functions]
    if needs_input_grad is None or sum(needs_input_grad) != sum(connected):
        return [tuple(range(len(needs_input_grad or ())))] * len(connected)
    needed, leading = _borders(needs_input_grad), _borders(connected)
    places: list[_Candidates] = []
    for (before, argument), (last, edge) in zip(pairwise(needed), pairwise(leading), strict=True):
        places += _null_edge_places(parameters, range(before + 1, argument), edge - last - 1)
        places += [(argument,)] * (edge < len(connected))
    return places


def _borders(flags: Sequence[bool]) -> list[int]:
    """Where the flags are set, and both ends.

    >>> _borders([False, True, False])
    [-1, 1, 3]
    """
    return [-1, *(index for index, flag in enumerate(flags) if flag), len(flags)]


def _null_edge_places(parameters: Sequence[_Parameter], candidates: range, n_edges: int) -> list[_Candidates]:
    possible = [place for place in candidates if parameters[place].is_tensor is not False]
    certain = [place for place in candidates if parameters[place].is_tensor]
    for places in (possible, certain):
        if n_edges == len(places):
            return [(place,) for place in places]
    return [tuple(possible)] * n_edges


def _forward_parameters(forward_class: type[_SingleLevelFunction] | None, n_arguments: int) -> list[_Parameter]:
    if forward_class is None or _is_made_by_torch(forward_class.forward):
        return [_Parameter()] * n_arguments
    # torch/autograd/function.py: forward gets the context first, unless there is a setup_context
    context = forward_class.setup_context is _SingleLevelFunction.setup_context
    arguments = range(-1 if context else 0, n_arguments)
    try:
        known = _KNOWN_PARAMETERS.setdefault(forward_class.forward, {})
    except TypeError:  # a callable that cannot be a key
        known = {}
    if arguments not in known:
        known[arguments] = _bound_parameters(forward_class.forward, arguments)
    return known[arguments]


def _bound_parameters(forward: Callable[..., object], arguments: range) -> list[_Parameter]:
    names = _names_by_place(_parameter_places(forward, arguments))
    return [_Parameter(names.get(index, UNNAMED)) for index in range(arguments.stop)]


def _is_made_by_torch(forward: Callable[..., object]) -> bool:
    """Whether a function of PyTorch defines it: torch.func, AOTAutograd and others make Functions on the fly."""
    module, name = getattr(forward, "__module__", None) or "", getattr(forward, "__qualname__", "")
    return module.partition(".")[0] == "torch" and "<locals>" in name


def _parameter_places(forward: Callable[..., object], arguments: range) -> Places:
    """Which parameter each of the positional `arguments` is bound to; nothing where they do not fit.

    >>> _parameter_places(lambda x, k=2, *rest: x, range(4))
    {'x': 0, 'k': 1, 'rest': (2, 3)}
    >>> _parameter_places(lambda x, y: x, range(1))
    {}
    """
    try:
        return inspect.signature(forward).bind(*arguments).arguments
    except (TypeError, ValueError):  # no signature, or one that a decorator does not keep to
        return {}


def _names_by_place(places: Places) -> dict[int, EdgeName]:
    """Turn it around, naming members.

    >>> _names_by_place({"x": 0, "rest": (1, 2)})
    {0: ('x', None), 1: ('rest[0]', 'rest'), 2: ('rest[1]', 'rest')}
    """
    names: dict[int, EdgeName] = {}
    for name, place in places.items():
        if isinstance(place, int):
            names[place] = (name, None)
        else:
            names |= {member: (f"{name}[{index}]", name) for index, member in enumerate(place)}
    return names


def _registered_operator(forward_class: type[_SingleLevelFunction] | None) -> torch._ops.OpOverload | None:
    """The operator whose backward ``torch.library.register_autograd`` gave, out of the Function made for it.

    torch/_library/autograd.py: ``make_autograd_impl`` makes it, ``supports_tensorlist`` wraps it.
    """
    forward = getattr(forward_class, "forward", None)
    if getattr(forward, "__module__", None) != "torch._library.autograd":
        return None
    operator = _enclosed(_enclosed(forward, "orig_forward") or forward, "op")
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def _enclosed(function: Any, name: str) -> object:
    return inspect.getclosurevars(function).nonlocals.get(name)


def _operator_parameters(
    operator: torch._ops.OpOverload, node: torch._C._FunctionBase, n_arguments: int
) -> list[_Parameter]:
    """The positional arguments of an operator: lists of tensors are passed flat, and metadata follow the arguments."""
    metadata = getattr(node, "_pt_metadata", None)
    flat = range(n_arguments) if metadata is None else range(n_arguments - 1)
    places = _structured(flat, metadata and metadata.input_spec)[:-1]
    parameters = [_Parameter(is_tensor=False)] * n_arguments
    # the dispatcher leaves out trailing defaults, and passes keyword-only arguments in the metadata
    for argument, place in zip(operator._schema.arguments, places, strict=False):
        for member, name in _names_by_place({argument.name: place}).items():
            is_tensor = _TENSOR_TYPES.get(str(argument.type), False) if isinstance(place, int) else True
            parameters[member] = _Parameter(name, is_tensor)
    return parameters


def _structured(flat: range, spec: TreeSpec | None) -> Sequence[int | Sequence[int]]:
    """Undo the flattening that `spec` describes; nothing where it is of another length."""
    if spec is None:
        return flat
    return tuple(tree_unflatten(flat, spec)) if spec.num_leaves == len(flat) else ()


def _output_names(operator: torch._ops.OpOverload | None, node: torch._C._FunctionBase) -> tuple[str, ...]:
    slots = range(len(node._input_metadata))  # type: ignore[attr-defined]
    numbered = name_results(len(slots))
    if operator is None:
        return numbered
    metadata = getattr(node, "_pt_metadata", None)
    places = _structured(slots, metadata and metadata.output_spec)
    results = operator._schema.returns
    names = [result.name or number for result, number in zip(results, name_results(len(results)), strict=True)]
    by_place = _names_by_place(dict(zip(names, places, strict=False)))
    return tuple(by_place.get(slot, UNNAMED)[0] or numbered[slot] for slot in slots)


# What its backward returns

_UNKNOWN: Status = "unknown"
_STATUSES: dict[ValueKind, Status] = {TENSOR: "tensor", NONE: "none"}


def read_backward(node: torch._C._FunctionBase, signature: CustomSignature, answers: Answers) -> Returned | None:
    """What a node's backward returns for each edge; None if that is not known from its code.

    `answers` are kept between the nodes of one graph (`backward_code.read_returned_kinds`).
    """
    function, needed = _plain_backward(getattr(type(node), "_forward_cls", None)), signature.needs_input_grad
    if function is None or needed is None:
        return None
    metas = node._input_metadata  # type: ignore[attr-defined]
    # results that are no differentiable tensors have gradients too, of shape (): they never arrive
    slots = tuple([slot for slot, meta in enumerate(metas) if len(metas) == 1 or tuple(meta.shape) != ()])
    arrived = tuple([ONE if slot in slots else MAYBE_TENSOR for slot in range(len(metas))])
    # torch/_library/autograd.py passes metadata behind the arguments: the user's backward does not see them, and None is
    # returned for them
    registered = _registered_backward(function)
    seen = needed if registered is None else needed[:-1]

    def context(name: str) -> KnownValue:
        return seen if name == "needs_input_grad" else _context_attribute(node, name)

    cases = (MAYBE_TENSOR,) * len(metas), arrived
    read = read_returned_kinds(registered or function, cases, context, len(seen), answers)
    whenever, if_arrived = (_of_edges([*each.kinds, NONE], signature.places) for each in read)
    count = read[0].refused if registered is None else None  # torch/_library/autograd.py counts in its own way
    is_missing = function is _SingleLevelFunction.backward
    is_error = is_missing or not read[0].ends or count is not None
    error = ReturnError(len(seen), count, is_missing) if is_error else None
    if error is None and {*whenever, *if_arrived} <= {_UNKNOWN}:
        return None
    return Returned(whenever, if_arrived, slots, error)


def _of_edges(kinds: Sequence[ValueKind], places: Sequence[_Candidates]) -> tuple[Status, ...]:
    """Where several arguments may belong to some edges, and as many Tensors are returned for them, each edge has one."""
    alike = Counter(places)
    found: list[Status] = []
    for candidates in places:
        possible = [kinds[place] for place in candidates]
        one_each = possible.count(TENSOR) == alike[candidates]
        kind = TENSOR if one_each else reduce(or_, possible, ValueKind(0))
        found.append(_STATUSES.get(kind, _UNKNOWN))
    return tuple(found)


def _plain_backward(function_class: Any) -> FunctionType | None:
    """The backward of a Function, where it gets ``ctx`` and each gradient and nothing else."""
    # a metaclass of the user's may look attributes up in its own way; boxed gradients come as one list (torch 2.13)
    is_boxed = inspect.getattr_static(function_class, "boxed_grads_call", False) is not False
    if type(function_class) is not FunctionMeta or is_boxed:
        return None
    backward = find_backward(function_class)
    function = backward.__func__ if type(backward) is staticmethod else backward
    return unwrap_backward(function) if is_a(function, FunctionType) else None


def _registered_backward(function: FunctionType) -> FunctionType | None:
    """What the user gave to ``torch.library.register_autograd``, behind the backward that torch made of it."""
    if not any(function.__code__ is code for code in make_autograd_impl.__code__.co_consts):
        return None
    registered = getattr(closure_of(function).get("info"), "_backward_fn", None)
    return unwrap_backward(registered) if is_a(registered, FunctionType) else None


def _context_attribute(node: torch._C._FunctionBase, name: str) -> KnownValue:
    """What ``ctx.name`` is when backward begins, as forward left it."""
    if name == "saved_tensors":
        return _saved_tensors(node)
    is_torchs = inspect.getattr_static(type(node), name, None) is not None
    return describe_constant(vars(node)[name]) if name in vars(node) and not is_torchs else ANYTHING


def _saved_tensors(node: torch._C._FunctionBase) -> KnownValue:
    """Each is a Tensor or None. To look which is to unpack it, which runs a hook of the user's where there is one."""
    try:
        raw: Any = node._raw_saved_tensors
    except RuntimeError:  # a backward has freed them: this node raises when it is executed again
        return ANYTHING
    # before torch 2.10 a saved tensor does not tell whether it has a hook
    return tuple(
        [
            describe_constant(each.data) if getattr(each, "unpack_hook", ...) is None else MAYBE_TENSOR
            for each in raw or ()
        ]
    )


# Whether its backward reads what forward saved

_READS = ("saved_tensors", "saved_variables")


def reads_saved_tensors(function_class: Any) -> bool | None:
    """Whether a Function's backward reads ``ctx.saved_tensors`` each time that it runs; None if its code does not say.

    >>> class Scale(torch.autograd.Function):
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         return ctx.factor * gradient
    >>> reads_saved_tensors(Scale) is None  # the code of a doctest is in no file
    True
    """
    plain = _plain_backward(function_class)
    function = None if plain is None else _registered_backward(plain) or plain
    definition = None if function is None else find_definition(function)
    if not isinstance(definition, ast.FunctionDef) or not definition.args.args:
        return None
    context = definition.args.args[0].arg
    for statement in definition.body:
        if any(_is_read(node, context) for node in _list_always_run(statement)):
            return True
        if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            break
    names = [node for node in ast.walk(definition) if isinstance(node, ast.Name) and node.id == context]
    attributes = [node for node in ast.walk(definition) if _is_attribute(node, context)]
    has_read = any(_is_read(node, context) for node in attributes)
    return False if len(names) == len(attributes) and not has_read else None


def _is_attribute(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name


def _is_read(node: ast.AST, context: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in _READS and _is_attribute(node, context)


def _list_always_run(statement: ast.stmt) -> Iterator[ast.AST]:
    """The parts of a statement that run whenever it does."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _list_parts_always_run(node)


def _list_parts_always_run(node: ast.AST) -> list[ast.AST]:
    """Not the branches of an if, what follows in an ``and``, or the code of a function that is only defined there."""
    match node:
        case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.Expr(value=value):
            return [value]
        case ast.AnnAssign(value=value) | ast.Return(value=value):
            return [] if value is None else [value]
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            return [test]
        case ast.For(iter=iterable):
            return [iterable]
        case ast.With(items=items, body=body):
            return [*(item.context_expr for item in items), *body]
        case ast.BoolOp(values=[first, *_]):
            return [first]
        case ast.Compare(left=left, comparators=[first, *_]):
            return [left, first]
        case ast.stmt() | ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return []
        case _:
            return list(ast.iter_child_nodes(node))

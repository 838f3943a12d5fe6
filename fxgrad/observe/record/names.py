"""Names of modules and tensors, as the model itself has them.

Modules are told apart by identity alone: a module of the user's may be equal to others, or have no hash. And a module
may hold itself, on which ``named_modules(remove_duplicate=False)`` never ends; so it is not used here.
"""

from __future__ import annotations

import inspect
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxgrad.graph import Path
from fxgrad.graph.records import HeldBy, VariableKind
from fxgrad.graph.text import format_argument, format_path
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.tensors import find_routes, find_tensors, identify_memory, make_path_step, may_have_history
from fxgrad.observe.sharding import ShardedParameter, find_sharded_parameters

_CONTAINERS = frozenset({dict, list, tuple, OrderedDict})
_SIMPLE = frozenset({bool, float, int, set, str, type(None)})
_MOST_ENTRIES = 32
"""A module that is shared is looked into this many times at most: nested sharing has paths beyond number."""


def list_module_paths(model: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    """Every path of every module, in the order of ``named_modules``; a path passes each module once."""
    entries: Counter[int] = Counter()
    trail: dict[int, None] = {}
    stack: list[tuple[str, nn.Module | None]] = [] if model is None else [("", model)]
    while stack:
        path, module = stack.pop()
        if module is None:
            trail.popitem()
            continue
        yield path, module
        children = get_table(module, "_modules")
        if not children:
            continue
        entries[id(module)] += 1
        if entries[id(module)] <= _MOST_ENTRIES:
            trail[id(module)] = None
            stack.append(("", None))
            stack.extend(_children(path, children, trail))


def _children(path: str, children: dict[str, Any], trail: dict[int, None]) -> list[tuple[str, nn.Module | None]]:
    prefix = f"{path}." if path else ""
    backwards = reversed(children.items())
    return [(prefix + name, child) for name, child in backwards if child is not None and id(child) not in trail]


def list_modules(model: nn.Module | None) -> list[nn.Module]:
    """Every module once, as ``model.modules()``."""
    return list({id(module): module for _, module in list_module_paths(model)}.values())


def get_table(module: nn.Module, name: str) -> dict[str, Any]:
    """A table that Module.__init__ makes, like ``_parameters``; {} for a module that has none."""
    table: dict[str, Any] = vars(module).get(name) or {}
    return table


def list_tensor_paths(model: nn.Module | None, table: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every path of every tensor in one table of the modules: ``_parameters`` or ``_buffers``."""
    return _list_tensors_at(list_module_paths(model), table)


def _list_tensors_at(paths: Iterable[tuple[str, nn.Module]], table: str) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in paths:
        prefix = f"{path}." if path else ""
        for name, tensor in get_table(module, table).items():
            if tensor is not None:
                yield prefix + name, tensor


class ModuleNames:
    """The paths of every module, by identity.

    A module that the model does not register is named by the attribute that holds it, ``hidden[0]``, else by its class
    in angle brackets; ``unregistered`` lists those that were asked for, each with its path.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.paths: dict[int, list[str]] = {}
        self.unregistered: list[tuple[str, nn.Module]] = []
        self._taken: set[str] = set()
        self._held: dict[int, tuple[str, nn.Module]] | None = None
        self.add(model)

    def add(self, model: nn.Module | None) -> None:
        """Add what the model holds now. A path stays with the module that had it first."""
        if model is None:
            return
        self._held = None
        for path, module in list_module_paths(model):
            if path not in self._taken:
                self._add(path, module)

    def _add(self, path: str, module: nn.Module) -> None:
        self._taken.add(path)
        self.modules[id(module)] = module
        self.paths.setdefault(id(module), []).append(path)

    def path_of(self, module: nn.Module) -> str:
        """The first path of a module; ``<Linear>``, ``<Linear 2>`` … for one that no module of the model holds."""
        if id(module) not in self.paths:
            self._add_unregistered(module)
        return self.paths[id(module)][0]

    def _add_unregistered(self, module: nn.Module) -> None:
        if self._held is None:
            self._held = self._list_held()
        path, _ = self._held.get(id(module), (f"<{type(module).__name__}>", module))
        free = _free(path, self._taken)
        self._add(free, module)
        self.unregistered.append((free, module))

    def _list_held(self) -> dict[int, tuple[str, nn.Module]]:
        """The modules in plain attributes and containers of the registered ones, and those inside them, with their paths."""
        found: dict[int, tuple[str, nn.Module]] = {}
        for key, holder in list(self.modules.items()):
            for attribute, value in _plain_attributes(holder):
                for route, module in find_routes(nn.Module, value):
                    place = format_path((attribute, *map(make_path_step, route)))
                    for inner, member in list_module_paths(module) if id(module) not in self.paths else ():
                        path = ".".join(filter(None, (self.paths[key][0], place, inner)))
                        found.setdefault(id(member), (path, member))
        return found


def _free(name: str, taken: set[str]) -> str:
    """The name, or the name with a number, whichever is not taken yet.

    >>> _free("<Linear>", {"<Linear>"}), _free("x", {"x", "x 2"}), _free("y", set())
    ('<Linear 2>', 'x 3', 'y')
    """
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name[:-1]} {count}>" if name.endswith(">") else f"{name} {count}"
    return free


class NamedTensor:
    """A tensor with its first name, its other names and what it is to the model; ``held_by``, ``left`` and ``replaces`` as in
    `Variable`."""

    __slots__ = ("aliases", "held_by", "kind", "left", "name", "replaces", "tensor")

    def __init__(self, name: str, kind: VariableKind, tensor: torch.Tensor) -> None:
        self.name = name
        self.kind = kind
        self.tensor = tensor
        self.held_by: HeldBy | None = None
        self.left: str | None = None
        self.replaces: str | None = None
        self.aliases: list[str] = []


class TensorNames:
    """Every tensor that has a name, by identity: parameters, buffers, inputs, then other tensor attributes.

    ``sharded`` are the parameters that ``fully_shard`` manages.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.named: dict[int, NamedTensor] = {}
        self.holders: dict[str, nn.Module] = {}
        self.sharded: list[ShardedParameter] = []
        self._taken: set[str] = set()
        self.add_model(model)

    def add(self, name: str, kind: VariableKind, tensor: torch.Tensor) -> None:
        """Give a tensor a name; one that has a name gets another. A name that is taken gets the kind, or a number."""
        replaces = None
        if name in self._taken:
            if id(tensor) in self.named:
                return
            replaces = name if kind == "parameter" and self._is_parameter(name) else None
            name = _free(f"{name} ({kind})", self._taken)
        self._taken.add(name)
        known = self.named.get(id(tensor))
        if known is None:
            self.named[id(tensor)] = NamedTensor(name, kind, tensor)
            self.named[id(tensor)].replaces = replaces
        else:
            known.aliases.append(name)

    def _is_parameter(self, name: str) -> bool:
        return any(each.kind == "parameter" and name in (each.name, *each.aliases) for each in self.named.values())

    def add_model(self, model: nn.Module | None) -> None:
        """Name the parameters and buffers that the model has now; the sharded ones where FSDP has gathered them."""
        paths = [*list_module_paths(model)]
        self.holders.update(paths)
        self.sharded = find_sharded_parameters(module for _, module in paths)
        gathered = {id(each.unsharded): each for each in self.sharded if each.unsharded is not None}
        tables: tuple[tuple[str, VariableKind], ...] = (("_parameters", "parameter"), ("_buffers", "buffer"))
        for table, kind in tables:
            for name, tensor in _list_tensors_at(paths, table):
                self.add(name, kind, gathered[id(tensor)].sharded if id(tensor) in gathered else tensor)
        for each in gathered.values():
            if each.unsharded is not None and id(each.unsharded) not in self.named:
                self.add(f"{self.named[id(each.sharded)].name} (unsharded)", "parameter", each.unsharded)

    def add_inputs(self, argument_names: tuple[str, ...], inputs: Iterable[tuple[Path, torch.Tensor]]) -> None:
        """Name the tensors among the arguments by the parameters of forward."""
        for path, tensor in inputs:
            self.add(format_argument(argument_names, path), "input", tensor)

    def add_leaf(self, tensor: torch.Tensor, name: str | None = None) -> None:
        """Name a leaf of the graph that has no name: `name`, if it is a parameter of a module that is not registered."""
        count = sum(named.kind == "other leaf" for named in self.named.values())
        self.add(name or f"leaf {count}", "other leaf", tensor)
        self.named[id(tensor)].held_by = None if name is None else "module"

    def add_attributes(self, model: nn.Module | None) -> None:
        """Name the tensors that modules hold as plain attributes, or in containers."""
        registered = {identify_memory(named.tensor) for named in self.named.values()}
        for name, tensor in _list_attribute_tensors(model):
            self.add(name, "other leaf", tensor)
            if identify_memory(tensor) not in registered:  # as that of weight.detach() is
                self.named[id(tensor)].held_by = "attribute"

    def add_left(self, computed: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Name the tensors that attributes held before forward, where they have no name now."""
        for name, tensor in computed:
            if id(tensor) not in self.named:
                self.add(f"{name} (before forward)", "other leaf", tensor)
                self.named[id(tensor)].left = name


def list_computed_attributes(model: nn.Module | None) -> list[tuple[str, torch.Tensor]]:
    """The tensors with a graph behind them that modules hold as plain attributes, or in containers, with their names."""
    return [(name, tensor) for name, tensor in _list_attribute_tensors(model) if may_have_history(tensor)]


def _list_attribute_tensors(model: nn.Module | None) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in {id(module): (path, module) for path, module in reversed([*list_module_paths(model)])}.values():
        for attribute, value in _plain_attributes(module):
            for inner, tensor in find_tensors(value, (f"{path}.{attribute}" if path else attribute,)).tensors:
                yield format_argument((), ("kwargs", *inner)), tensor


def _plain_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    own = ("_parameters", "_buffers", "_modules")
    return [(str(name), value) for name, value in vars(module).items() if _may_hold_tensors(value) and name not in own]


def _may_hold_tensors(value: Any) -> bool:
    """Whether to look into an attribute: most of a module's are numbers, or the empty tables of its hooks."""
    kind = type(value)
    if kind in _CONTAINERS:
        return bool(value)
    return kind not in _SIMPLE and is_a(value, (torch.Tensor, nn.Module, list, tuple, dict))


def make_tensor_finder(names: TensorNames) -> Callable[[object], str | None]:
    """Finds the name of a tensor object, without keeping any tensor alive.

    No weak reference to a parameter or buffer is held, only to its module: ``torch.utils.swap_tensors``, with which
    ``Module.to`` can move a model, refuses tensors that have one (torch/utils/__init__.py).
    """
    known = {key: (_refer(named, names.holders), named.name) for key, named in names.named.items()}

    def name_of(tensor: object) -> str | None:
        find, name = known.get(id(tensor), (None, None))
        return name if find is not None and find() is tensor else None

    return name_of


def _refer(named: NamedTensor, holders: Mapping[str, nn.Module]) -> Callable[[], object]:
    """Finds a tensor again, as long as it is where it was."""
    path, _, attribute = named.name.rpartition(".")
    holder = holders.get(path)
    if holder is None or named.kind not in ("parameter", "buffer"):
        return weakref.ref(named.tensor)
    module, table = weakref.ref(holder), "_parameters" if named.kind == "parameter" else "_buffers"
    return lambda: None if (held := module()) is None else get_table(held, table).get(attribute)


def make_path_finder(model: nn.Module | None) -> Callable[[object], str | None]:
    """Finds the path of a module object, without keeping any module alive."""
    first = {id(module): (path, module) for path, module in reversed([*list_module_paths(model)])}
    known = {key: (weakref.ref(module), path) for key, (path, module) in first.items()}

    def path_of(module: object) -> str | None:
        reference, path = known.get(id(module), (None, None))
        return path if reference is not None and reference() is module else None

    return path_of


def list_argument_names(module: nn.Module, n_args: int) -> tuple[str, ...]:
    """The names that ``module.forward`` gives to its first `n_args` positional arguments: ``rest[0]`` for varargs."""
    try:
        parameters = list(read_signature(module.forward).parameters.values())
    except Exception:  # no signature, or the user's own __getattr__
        return tuple(f"argument {position}" for position in range(n_args))
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{position}]" for position in range(max(0, n_args - len(names)))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names += [f"argument {position}" for position in range(len(names), n_args)]
    return tuple(names[:n_args])


def takes_argument(module: nn.Module, name: str) -> bool:
    """Whether ``module.forward`` has a parameter of that name."""
    try:
        return name in read_signature(module.forward).parameters
    except Exception:  # no signature, or the user's own __getattr__
        return False


def read_signature(function: Any) -> inspect.Signature:
    """The signature of a function. Of a scripted one that was loaded it is made of its schema: no Python is behind it."""
    is_method = is_a(function, torch._C.ScriptMethod)
    if not (is_method or is_a(function, torch._C.ScriptFunction)) or hasattr(function, "__wrapped__"):
        return inspect.signature(function)
    arguments = function.schema.arguments[1 if is_method else 0 :]
    return inspect.Signature([_make_parameter(argument) for argument in arguments])


def _make_parameter(argument: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    return inspect.Parameter(argument.name, kind, default=default)

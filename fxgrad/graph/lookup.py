"""Finds what a text of the user's names: a kind of hook, a module, a node, a gradient.

Where nothing has that name, a UsageError says which names are nearest.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn

from fxgrad.errors import UsageError
from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.records import ModuleCall, Node, Root, TensorRef
from fxgrad.graph.text import escape, format_path

_SUBSCRIPT = re.compile(r"\[(?:'([^']*)'|\"([^\"]*)\"|([^\]]*))\]")
_SLOT = re.compile(r"(.*)\[([0-9]{1,9})\]", re.DOTALL)
_MOST_NAMES = 3


# Kinds of hooks


def find_hook_kind(text: HookKind | str) -> HookKind:
    """The kind whose registering function is, or as the only one ends with, this text; a kind stands for itself.

    Raises UsageError that lists the candidates.

    >>> find_hook_kind("register_full_backward_hook")
    <HookKind.MODULE_FULL_BACKWARD: 'Module.register_full_backward_hook'>
    """
    if isinstance(text, HookKind):
        return text
    exact = [kind for kind in HookKind if kind.function == text]
    ending = exact or [kind for kind in HookKind if kind.function.endswith(text)]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UsageError(f"{text!r} can mean {len(ending)} kinds of hook", _join_kinds(ending), ending[0].function)
    raise UsageError(f"no kind of hook is called {text!r}", _join_kinds(HookKind), _find_nearest_kind(text))


def _join_kinds(kinds: Iterable[HookKind]) -> str:
    return ", ".join(kind.function for kind in kinds)


def _find_nearest_kind(text: str) -> str:
    """The nearest by the function's name, with or without what it is a method of."""
    names = {name: kind.function for kind in HookKind for name in (kind.function, kind.function.rpartition(".")[2])}
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.0)
    return names[near[0]]


# Modules


def find_module_path(graph: GraphRecords, text: str) -> str:
    """The path of the module that `text` names: its path, one of its aliases, or ``layers[3]``.

    Raises UsageError with the nearest paths where there is none.
    """
    for path in (text, _dot_subscripts(text)):
        if path in graph.modules_by_path:
            return graph.modules_by_path[path].path
    known = list(graph.modules_by_path)
    near = difflib.get_close_matches(_dot_subscripts(text), known, n=3, cutoff=0.4) or known[:5]
    raise UsageError(
        f"no module {escape(text)!r}",
        f"the path of one of the {len(known)} modules" if known else "a module of the model: this trace has none",
        _format_choices(near) if near else "omit it",
    )


def _format_choices(paths: list[str]) -> str:
    shown = [escape(path) or '"" (the model itself)' for path in paths]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]


def _dot_subscripts(text: str) -> str:
    """A path written with subscripts, with dots.

    >>> _dot_subscripts("encoder.layers[3]['attention']"), _dot_subscripts("[0].weight")
    ('encoder.layers.3.attention', '0.weight')
    """
    with_dots = _SUBSCRIPT.sub(lambda match: "." + next(part for part in match.groups() if part is not None), text)
    return with_dots.removeprefix(".")


def find_inside_scripts(graph: GraphRecords) -> frozenset[str]:
    """The paths of the modules inside of those that TorchScript runs: it calls them without Python, so that no call is
    recorded."""
    scripted = {module.path for module in graph.modules if module.made_by == "torch.jit"}
    paths = (path for module in graph.modules for path in (module.path, *module.aliases))
    return frozenset(path for path in paths if any(parent in scripted for parent in list_parent_paths(path)))


def find_module_without_call(graph: GraphRecords, node: Node) -> str | None:
    """The path of the module that a node comes from, where no call of the module made it: it runs inside of TorchScript, or
    torch.fx or torch.export put its operations into the graph of the model around it."""
    if node.script is not None:
        return node.script.module
    return None if node.fx_node is None else graph.fx_nodes_by_name[node.fx_node].traced_in


def list_nodes_without_call(graph: GraphRecords, path: str) -> list[Node]:
    """The nodes that come from a module, or from one inside of it, without a call of it."""
    origins = [(node, find_module_without_call(graph, node)) for node in graph.nodes]
    return [node for node, origin in origins if origin is not None and f"{origin}.".startswith(f"{path}.")]


def find_traced_away(graph: GraphRecords) -> frozenset[str]:
    """The paths of the modules that are not called, as torch.fx or torch.export put their operations into the graph of the
    model around them."""
    inside = {fx_node.traced_in for fx_node in graph.forward if fx_node.traced_in is not None}
    around = {path for path in inside for path in (path, *list_parent_paths(path))}
    return frozenset(
        module.path for module in graph.modules if module.path in around and not graph.calls_per_module[module.path]
    )


def list_parent_paths(path: str) -> Iterator[str]:
    """The paths of the modules around a module, the nearest first, the model itself last.

    >>> list(list_parent_paths("encoder.layers.3"))
    ['encoder.layers', 'encoder', '']
    """
    while path:
        path = path.rpartition(".")[0]
        yield path


def keep_outermost(paths: Iterable[str]) -> list[str]:
    """Those of the paths that are inside no other of them, in their order.

    >>> keep_outermost(["encoder", "encoder.layers.3", "head"])
    ['encoder', 'head']
    """
    known = dict.fromkeys(paths)
    return [path for path in known if not any(holder in known for holder in list_parent_paths(path))]


# Nodes


def find_node(graph: GraphRecords, wanted: int | str) -> Node:
    """The node of this id or label. Raises UsageError with the nearest labels where there is none."""
    if isinstance(wanted, str):
        if wanted in graph.nodes_by_label:
            return graph.nodes_by_label[wanted]
        near = find_nearest_labels(graph.nodes_by_label, wanted)
        given = f'no node is labelled "{escape(wanted)}"'
        allowed = "a label of the graph" + (f"; the nearest are {', '.join(map(escape, near))}" if near else "")
    else:
        if 0 <= wanted < len(graph.nodes):
            return graph.nodes[wanted]
        given = f"node {wanted} is not in the graph"
        allowed = f"an id from 0 to {len(graph.nodes) - 1}, or a label"
        allowed = allowed if graph.nodes else "nothing: the graph has no nodes"
    raise UsageError(given, allowed, "print(graph) shows every node with its id and label")


def find_nearest_labels(labels: Iterable[str], wanted: str) -> list[str]:
    """Find the labels most like `wanted`, those of one name as a range: a graph may have a million of them.

    >>> find_nearest_labels(["MmBackward0_0", "TBackward0_0", "TBackward0_1", "TBackward0_2"], "TBackward_0")
    ['TBackward0_0 to TBackward0_2', 'MmBackward0_0']
    """
    ranges: dict[str, tuple[str, str]] = {}
    for label in labels:
        name = label.rpartition("_")[0]
        ranges[name] = (ranges.get(name, (label, ""))[0], label)
    near = difflib.get_close_matches(wanted.rpartition("_")[0] or wanted, ranges, n=_MOST_NAMES)
    return [first if first == last else f"{first} to {last}" for first, last in map(ranges.__getitem__, near)]


# Gradients


class GradientPlace(NamedTuple):
    """A gradient of a node; ``node`` is None for a tensor that is not in the graph."""

    name: str
    node: int | None
    slot: int


def find_input(graph: GraphRecords, text: str) -> GradientPlace:
    """The gradient of the variable, or of the node's slot, that `text` names: ``weight``, ``UnbindBackward0_0[1]``.

    Raises UsageError with the nearest names where there is none, and for a variable that requires no grad.
    """
    variable = graph.variables_by_name.get(text)
    if variable is None:
        return _find_in_node(graph, text) or _raise_unknown(text, "tensor", _list_input_names(graph))
    if not variable.requires_grad:
        raise UsageError(
            f"{escape(text)}, which does not require grad",
            "tensors that require grad: PyTorch raises for others",
            "omit it, or make it require grad and trace again",
        )
    own = None if variable.node in variable.earlier else variable.node
    return GradientPlace(variable.name, own, variable.slot)


def find_root(graph: GraphRecords, text: str) -> Root:
    """The root that `text` names: one of the graph's by where it was found (``result[1]``), or any gradient in it.

    Raises UsageError with the nearest names where there is none, and for a tensor that is not in the graph.
    """
    known = {format_path(root.path): root for root in graph.roots}
    if text in known:
        return known[text]
    if text not in graph.variables_by_name and _find_in_node(graph, text) is None:
        _raise_unknown(text, "root", (*known, *_list_input_names(graph)))
    place = find_input(graph, text)
    if place.node is None:
        raise UsageError(
            f"{escape(text)} as a root, which is not in this graph",
            "a tensor that the traced roots lead to",
            "trace a model that returns it",
        )
    return Root(place.node, place.slot, (place.name,))


def _find_in_node(graph: GraphRecords, text: str) -> GradientPlace | None:
    """``label`` for a node that receives one gradient, ``label[slot]`` for any."""
    node = graph.nodes_by_label.get(text)
    if node is not None:
        return GradientPlace(text, node.id, _only_slot(node))
    match = _SLOT.fullmatch(text)
    node = None if match is None else graph.nodes_by_label.get(match[1])
    if match is None or node is None:
        return None
    slot = int(match[2])
    if slot >= len(node.grad_outputs):
        raise _wrong_slot(node, text)
    return GradientPlace(text, node.id, slot)


def _only_slot(node: Node) -> int:
    if len(node.grad_outputs) != 1:
        raise _wrong_slot(node, node.label)
    return 0


def _wrong_slot(node: Node, text: str) -> UsageError:
    count, label = len(node.grad_outputs), escape(node.label)
    return UsageError(
        f"{escape(text)} as one gradient",
        f"{label} receives {count}, numbered from 0",
        f"{label}[{count - 1}]" if count else "another node",
    )


def _list_input_names(graph: GraphRecords) -> tuple[str, ...]:
    wanted = [name for name, variable in graph.variables_by_name.items() if variable.requires_grad]
    return (*wanted, *graph.nodes_by_label)


def _raise_unknown(text: str, what: str, known: Iterable[str]) -> NoReturn:
    names = list(known)
    near = difflib.get_close_matches(text, names, n=_MOST_NAMES, cutoff=0.4) or names[:_MOST_NAMES]
    raise UsageError(
        f"no {what} {escape(text)!r}",
        f"one of {len(names)} names: variables that require grad, and nodes with their slot, label[1]",
        "one of " + ", ".join(map(escape, near)) if near else "trace a model with parameters",
    )


def is_used_outside(graph: GraphRecords, call: ModuleCall, ref: TensorRef) -> bool:
    """Whether a node that the call did not make gives one of its results a gradient, or backward starts from it."""
    if ref.node is None:
        return False
    slot = (ref.node, ref.slot)
    if slot in graph.root_slots:
        return True
    within = {node.id for node in graph.nodes_within(call.id)}
    return any(user not in within for user in graph.users_of_slots.get(slot, ()))

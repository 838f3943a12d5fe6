"""Gives the modules that run without being called a frame in pictures: those inside of TorchScript, and those whose operations
torch.fx or torch.export put into the graph of the model around them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, ModuleCall, Node
from fxgrad.graph.lookup import find_module_without_call, list_parent_paths

_TRACED_AWAY, _SCRIPTED = "traced away", "inside of TorchScript"


def is_inner_module(call: ModuleCall) -> bool:
    """Whether a call stands for a module that was not called."""
    return call.type_name in (_TRACED_AWAY, _SCRIPTED)  # no class has a name with a space in it


def add_inner_modules(graph: BackwardGraph) -> BackwardGraph:
    """The graph as pictures show it: each such module stands for a call inside of the call that its operations ran in.

    All that ran of a module in one call is one: what TorchScript keeps does not tell apart how often it called a module.
    """
    added: dict[str, ModuleCall] = {}
    nodes = tuple([_put_node_inside(graph, added, node) for node in graph.nodes])
    calls = [_put_call_inside(graph, added, call) for call in graph.calls]
    return replace(graph, nodes=nodes, calls=(*calls, *added.values())) if added else graph


def _put_node_inside(graph: BackwardGraph, added: dict[str, ModuleCall], node: Node) -> Node:
    origin = find_module_without_call(graph, node)
    if node.call is None or origin is None:
        return node
    how = _TRACED_AWAY if node.script is None else _SCRIPTED
    return replace(node, call=_find_place(graph, added, graph.calls_by_id[node.call], origin, how))


def _put_call_inside(graph: BackwardGraph, added: dict[str, ModuleCall], call: ModuleCall) -> ModuleCall:
    """A call that a GraphModule makes, inside of the modules that were traced away around it."""
    around = None if call.parent is None else graph.calls_by_id[call.parent]
    caller = None if around is None else graph.modules_by_path.get(around.path)
    if around is None or caller is None or caller.made_by != "torch.fx":
        return call
    return replace(call, parent=_find_place(graph, added, around, call.path.rpartition(".")[0], _TRACED_AWAY))


def _find_place(graph: BackwardGraph, added: dict[str, ModuleCall], call: ModuleCall, path: str, how: str) -> str:
    """The id of what stands for the module of that path inside of a call; what is missing on the way is `added`."""
    parent = call.id
    for inner in _list_paths_between(call.path, path):
        module = graph.modules_by_path.get(inner)
        if module is None:
            continue
        name = f"{inner} ({how}, in {call.id})"
        if name not in added:
            added[name] = ModuleCall(
                id=name,
                path=inner,
                type_name=how,  # the class that stands in for the model's own says nothing
                index=1,
                parent=parent,
                sequence_window=call.sequence_window,
                inputs=(),
                outputs=(),
                n_args=0,
                n_results=0,
                result_type="",
                grad_enabled=call.grad_enabled,
                completed=call.completed,
                training=module.training,
            )
        parent = name
    return parent


def _list_paths_between(outer: str, inner: str) -> Iterator[str]:
    """The paths from below a module down to one inside of it; none where it is not inside.

    >>> list(_list_paths_between("encoder", "encoder.layers.3"))
    ['encoder.layers', 'encoder.layers.3']
    """
    around = [inner, *list_parent_paths(inner)]
    if inner != outer and outer in around:
        yield from reversed(around[: around.index(outer)])

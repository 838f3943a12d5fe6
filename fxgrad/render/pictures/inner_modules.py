"""Gives the modules that run without being called a frame in pictures: those inside of TorchScript, and those whose operations
torch.fx or torch.export put into the graph of the model around them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, ModuleCall, Node
from fxgrad.graph.lookup import find_module_without_call, list_parent_paths


def add_inner_modules(graph: BackwardGraph) -> BackwardGraph:
    """The graph as pictures show it: each such module stands for a call inside of the call that its operations ran in.

    All that ran of a module in one call is one: what TorchScript keeps does not tell apart how often it called a module.
    """
    origins = [None if node.call is None else find_module_without_call(graph, node) for node in graph.nodes]
    if not any(origins):
        return graph
    added: dict[str, ModuleCall] = {}
    nodes = [
        node if origin is None else _put_inside(graph, added, node, origin)
        for node, origin in zip(graph.nodes, origins, strict=True)
    ]
    return replace(graph, nodes=tuple(nodes), calls=(*graph.calls, *added.values()))


def _put_inside(graph: BackwardGraph, added: dict[str, ModuleCall], node: Node, origin: str) -> Node:
    """The node, in the innermost of the modules that it comes from; these are `added`."""
    call = graph.calls_by_id[node.call or ""]
    how = "traced away" if node.script is None else "inside of TorchScript"
    parent = call.id
    for path in _list_paths_between(call.path, origin):
        module = graph.modules_by_path.get(path)
        if module is None:
            continue
        name = f"{path} ({how}, in {call.id})"
        if name not in added:
            added[name] = ModuleCall(
                id=name,
                path=path,
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
    return replace(node, call=parent)


def _list_paths_between(outer: str, inner: str) -> Iterator[str]:
    """The paths from below a module down to one inside of it; none where it is not inside.

    >>> list(_list_paths_between("encoder", "encoder.layers.3"))
    ['encoder.layers', 'encoder.layers.3']
    """
    around = [inner, *list_parent_paths(inner)]
    if inner != outer and outer in around:
        yield from reversed(around[: around.index(outer)])

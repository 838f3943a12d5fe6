"""Where hooks on tensors and nodes go, and which attributes a module may have set, while the run is gone through again."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Hook, HookKind, Node
from fxgrad.probe.outside import Outside
from fxgrad.probe.whereabouts import Whereabouts


def hook_now(hook: Hook, now: Whereabouts, outside: Outside, nodes: Sequence[Node]) -> Hook:
    """The hook as it is registered now: on the tensor, or its node, that has taken the place of the one before."""
    targets = tuple([_target(*each, now, outside) for each in zip(hook.targets, hook.target_slots, strict=False)])
    known = hook.observed or outside.place_of_owner(hook)
    observed = None if known is None else _observed(hook, *known, now, nodes)
    unplaced = hook.unplaced if observed is None else None
    return replace(hook, observed=observed, unplaced=unplaced, target_slots=targets)


def _observed(
    hook: Hook, node: int, slot: int | None, now: Whereabouts, nodes: Sequence[Node]
) -> tuple[int, int | None]:
    if hook.kind not in (HookKind.NODE, HookKind.NODE_PRE):
        return now.get((node, slot or 0)) or (node, slot)
    new = [now.get((node, slot)) for slot in range(len(nodes[node].grad_outputs))]
    return next((place[0] for place in new if place is not None), node), None


def _target(name: str, place: tuple[int | None, int], now: Whereabouts, outside: Outside) -> tuple[int | None, int]:
    node, slot = (outside.place_of_name(name) or place) if place[0] is None else place
    return (None, slot) if node is None else now.of((node, slot))


def attributes_by_module(graph: BackwardGraph) -> dict[str, list[int]]:
    """Which variables, by their rank, are attributes of each module that its forward may have set."""
    found: dict[str, list[int]] = {}
    for index, variable in enumerate(graph.variables):
        if variable.node is not None and not variable.is_leaf and variable.kind != "input":
            found.setdefault(_owner(graph, variable.name), []).append(index)
    return found


def _owner(graph: BackwardGraph, name: str) -> str:
    path = name
    while path and path not in graph.modules_by_path:
        path = path.rpartition(".")[0]
    return graph.modules_by_path[path].path if path in graph.modules_by_path else ""

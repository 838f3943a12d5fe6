"""What happens to every node: the answers that need no hook."""

from __future__ import annotations

from dataclasses import dataclass

from fxgrad.graph import BackwardCall, BackwardGraph, Node
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.silence import unreached_reason

_CPU = "cpu"
_HOST_DEVICES = (_CPU, "meta")


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """What one backward does with one node.

    ``runs``          whether it is executed; False also where only its tensor hooks are called (``rank`` is then set)
    ``rank``          its place in the engine's order; None where the engine does not come to it
    ``grad_outputs``  "tensor", "none" or "unknown" per slot, as a hook after the node sees them
    ``grad_inputs``   the same per edge; all "none" where the node is not executed
    """

    runs: bool | None
    rank: int | None
    grad_outputs: tuple[str, ...]
    grad_inputs: tuple[str, ...]


def predict_nodes(graph: BackwardGraph, backward: BackwardCall | None = None) -> tuple[NodePrediction, ...]:
    """Say for every node, in id order, whether and when backward executes it, and what it receives and returns.

    `backward` is how it will be called; None: as `graph.info` says. Takes time proportional to the size of the graph
    and no recursion; sources as in `fxgrad.predict.engine`.
    """
    outlook = Outlook.of(graph, backward or graph.info.backward)
    ranks, flow = outlook.ranks, outlook.flow
    return tuple(
        [
            NodePrediction(bool(runs), ranks.get(node), grad_outputs, grad_inputs)
            for node, (runs, grad_outputs, grad_inputs) in enumerate(
                zip(outlook.schedule.runs, flow.grad_outputs, flow.grad_inputs, strict=True)
            )
        ]
    )


def passed_by(graph: BackwardGraph) -> dict[int, str]:
    """The nodes that backward, called as `graph.info` says, does not come to, each with why."""
    outlook = Outlook.of(graph, graph.info.backward)
    return {node.id: unreached_reason(outlook, node.id) for node in graph.nodes if node.id not in outlook.ranks}


def order_caveat(graph: BackwardGraph) -> str | None:
    """Say why the order in which hooks are called may be another one than predicted; None where it may not.

    Each accelerator has a thread of its own (torch/csrc/autograd/engine.cpp, ``Engine::ready_queue``), and what several
    threads do at once has no order; they also start while the roots are still being handed out.
    """
    devices = list(dict.fromkeys(_device(node) for node in graph.nodes))
    if len(devices) > 1:
        return f"each device ({', '.join(devices)}) has a thread of its own, so between them there is no order"
    if len(graph.roots) > 1 and devices != [_CPU]:
        return f"the thread of {devices[0]} starts while the {len(graph.roots)} roots are still being handed out"
    return None


def _device(node: Node) -> str:
    """Where the engine runs a node: the first accelerator among its gradients (function.h, ``Node::device``)."""
    devices = (meta.device for meta in node.grad_outputs)
    return next((device for device in devices if device.partition(":")[0] not in _HOST_DEVICES), _CPU)

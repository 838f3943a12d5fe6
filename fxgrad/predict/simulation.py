"""One backward, simulated on the records: what each node does, receives and returns, and questions about the result.

The engine's order comes from `fxgrad.predict.engine`, what a node returns from `fxgrad.predict.formulas`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fxgrad.graph import (
    BackwardCall,
    BackwardGraph,
    Hook,
    HookSite,
    ModuleCall,
    Node,
    Sharding,
    UnrecordedCall,
)
from fxgrad.graph.records import Status
from fxgrad.predict.engine import Schedule, schedule_nodes
from fxgrad.predict.formulas import (
    INPUT_SIDE,
    NONE,
    OUTPUT_SIDE,
    TENSOR,
    UNKNOWN,
    Statuses,
    compute_grad_inputs,
)

_CPU = "cpu"
_HOST_DEVICES = (_CPU, "meta")


@dataclass(frozen=True)
class Simulation:
    """One graph, how backward is called, and what follows from both.

    ``grad_outputs``  for each node, by id, what it receives: one status for each slot, as hooks after the node see them;
                      all "none" if the engine does not reach the node
    ``grad_inputs``   what it returns: one status for each edge; all "none" if the node is not executed
    ``deciders``      for each unknown slot (node, slot) the node whose own code decides whether a gradient arrives
    ``sides``         each BackwardHookFunction node of a known module call, with its side of the module
    """

    graph: BackwardGraph
    call: BackwardCall
    schedule: Schedule
    grad_outputs: tuple[Statuses, ...]
    grad_inputs: tuple[Statuses, ...]
    deciders: dict[tuple[int, int], int]
    sides: dict[int, str]

    @cached_property
    def ranks(self) -> dict[int, int]:
        """Each node that the engine reaches, with its place in the engine's order."""
        return {node: rank for rank, node in enumerate(self.schedule.order)}

    def runs(self, node: int) -> bool:
        """Whether backward executes the node to its end, so that hooks after it are called."""
        return bool(self.schedule.runs[node]) and node != self.schedule.raises_at

    # Full hooks

    def module_call(self, site: HookSite) -> ModuleCall | UnrecordedCall | None:
        """The module call that put a module's hook where it is; None if nothing is known of it."""
        if site.call is not None:
            return self.graph.calls_by_id[site.call]
        return None if site.node is None else self.graph.unrecorded_calls_by_node.get(site.node)

    def is_held_back(self, site: HookSite) -> bool:
        """Whether a full hook on the inputs is not called when its node runs: the output side left nothing for it."""
        return self.waits_for_output(site) and not self.finds_earlier(site)

    def waits_for_output(self, site: HookSite) -> bool:
        """Whether the node of a full hook on the inputs runs before the node on the outputs has run.

        ``BackwardHook._set_user_hook`` (torch/utils/hooks.py) waits for the grad_outputs that the output side leaves. If
        the same call was made before, what the output side left then and nothing took is still there.
        """
        call = self.module_call(site) if site.hook.kind.is_full else None
        if call is None or site.node is None or self.sides.get(site.node) != INPUT_SIDE:
            return False
        output = call.output_hook_node
        if output is None or not self.runs(output):
            return True
        return self.call.after is None and self.ranks[output] > self.ranks[site.node]

    def finds_earlier(self, site: HookSite) -> bool:
        """Whether an earlier backward, which was not recorded, left grad_outputs that nothing has taken."""
        call = self.module_call(site)
        return isinstance(call, UnrecordedCall) and call.has_waiting

    # Multi-grad hooks

    def count_awaited(self, hook: Hook) -> int:
        """Count the gradients that a multi-grad hook waits for: one, or for an "all" hook one for each executed node.

        It calls ``torch._C._will_engine_execute_node`` for the node of each tensor.
        """
        if hook.mode == "any":
            return 1
        return sum(bool(self.schedule.will_run[node]) for node in _counted_nodes(hook))

    def refuses_leaf(self, hook: Hook) -> bool:
        """Whether an "all" hook raises: ``_will_engine_execute_node`` does for a leaf that autograd.grad captures.

        See torch/csrc/autograd/init.cpp.
        """
        if hook.mode != "all" or self.call.api != "grad":
            return False
        captured = {node for node, _ in self.call.inputs or ()}
        return any(node in captured and not self.graph.nodes[node].edges for node in _counted_nodes(hook))

    # Hooks that FSDP calls

    def reduces(self, sharding: Sharding) -> bool | None:
        """Whether FSDP reduces a gradient of a parameter in this backward; None if the records do not decide."""
        leaf = sharding.leaf
        gets = NONE if leaf is None or not self.runs(leaf) else self.grad_outputs[leaf][0]
        if gets == TENSOR and not self.nesting and self.schedule.raises_at is None and self.call.after != "freed":
            return True
        is_undecided = sharding.has_waiting or gets != NONE or (self.nesting and leaf is None)
        return None if is_undecided else False

    # Backward inside backward

    @cached_property
    def nesting(self) -> tuple[Node, ...]:
        """The nodes that start a backward of their own, in the order in which this backward executes them."""
        if not self.graph.nesting:
            return ()
        nesting = {node.id for node in self.graph.nesting}
        return tuple([self.graph.nodes[node] for node in self.schedule.order if node in nesting and self.runs(node)])

    @cached_property
    def intruder(self) -> Node | None:
        """The first of these whose backward may reach more of this graph than leaves, and free it."""
        entries = self.graph.list_entries
        return next((node for node in self.nesting if any(entry is not None for entry, _ in entries(node))), None)

    @cached_property
    def _entered(self) -> frozenset[int]:
        """What those may reach besides leaves: the nodes where they enter, and all nodes behind."""
        return self.graph.nodes_behind(
            entry for node in self.nesting for entry, _ in self.graph.list_entries(node) if entry is not None
        )

    def is_shared(self, node: int) -> bool:
        """Whether a backward that starts inside this one may call the hooks at a node, too."""
        if not self.nesting:
            return False
        return self.graph.nodes[node].kind.is_leaf or node in self._entered

    def is_miscounted(self, site: HookSite) -> bool:
        """Whether a multi-grad hook may count gradients of a backward that starts inside this one."""
        if not site.hook.kind.on_several_tensors or site.node is None or not site.hook.active or not self.nesting:
            return False
        return any(node is None or self.is_shared(node) for node, _ in site.hook.target_slots)


def _counted_nodes(hook: Hook) -> list[int]:
    """The nodes of the tensors that an "all" hook counts."""
    return [
        node for target, (node, _) in enumerate(hook.target_slots) if node is not None and target not in hook.uncounted
    ]


def find_hook_sides(graph: BackwardGraph) -> dict[int, str]:
    """Return the BackwardHookFunction nodes of known module calls, each with its side of the module."""
    calls: tuple[ModuleCall | UnrecordedCall, ...] = (*graph.calls, *graph.unrecorded_calls)
    inputs = {call.input_hook_node: INPUT_SIDE for call in calls if call.input_hook_node is not None}
    outputs = {call.output_hook_node: OUTPUT_SIDE for call in calls if call.output_hook_node is not None}
    return {**inputs, **outputs}


def simulate(graph: BackwardGraph, call: BackwardCall | None = None) -> Simulation:
    """Simulate one backward, called as `call` says; None: as `graph.info` says.

    Takes time proportional to the size of the graph, without recursion.
    """
    call = call or graph.info.backward
    schedule = schedule_nodes(graph, call)
    sides = find_hook_sides(graph)
    received: list[list[Status] | None] = [None] * len(graph.nodes)
    for reached in schedule.order:
        received[reached] = [NONE] * len(graph.nodes[reached].grad_outputs)
    for root in graph.roots:
        slots = received[root.node]
        if slots is not None:
            slots[root.slot] = TENSOR
    grad_outputs: list[Statuses] = []
    grad_inputs: list[Statuses] = []
    deciders: dict[tuple[int, int], int] = {}
    intern: dict[Statuses, Statuses] = {}  # few differ, and a graph may have a million nodes
    for node, slots in zip(graph.nodes, received, strict=True):  # in topological order
        into = (NONE,) * len(node.grad_outputs) if slots is None else tuple(slots)
        out = compute_grad_inputs(graph, node, into, schedule, sides.get(node.id))
        grad_outputs.append(intern.setdefault(into, into))
        grad_inputs.append(intern.setdefault(out, out))
        _deliver(node, out, received, deciders)
    return Simulation(graph, call, schedule, tuple(grad_outputs), tuple(grad_inputs), deciders, sides)


def _deliver(
    node: Node, statuses: Statuses, received: list[list[Status] | None], deciders: dict[tuple[int, int], int]
) -> None:
    """Add each gradient to the slot that its edge leads to: a Tensor for certain if any of them is."""
    for edge, status in zip(node.edges, statuses, strict=True):
        if edge.next_node is None or status == NONE:
            continue
        slots = received[edge.next_node]
        if slots is None or slots[edge.input_nr] == TENSOR:
            continue
        slots[edge.input_nr] = status
        if status == UNKNOWN:
            deciders.setdefault((edge.next_node, edge.input_nr), _find_decider(node, deciders))
        else:
            deciders.pop((edge.next_node, edge.input_nr), None)


def _find_decider(node: Node, deciders: dict[tuple[int, int], int]) -> int:
    """Return the node whose code decides what `node` returns: itself, or one before it."""
    if node.kind.decides_alone:
        return node.id
    slots = range(len(node.grad_outputs))
    return next((deciders[node.id, slot] for slot in slots if (node.id, slot) in deciders), node.id)


# Answers that need no hook


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """What one backward does with one node.

    ``runs``          whether it is executed; False also where only its tensor hooks are called (``rank`` is then set)
    ``rank``          its place in the engine's order; None if the engine does not reach it
    ``grad_outputs``  "tensor", "none" or "unknown" for each slot, as a hook after the node sees them
    ``grad_inputs``   the same for each edge; all "none" if the node is not executed
    ``behind``        whether the node is a root or behind one
    """

    runs: bool
    rank: int | None
    grad_outputs: Statuses
    grad_inputs: Statuses
    behind: bool


def predict_nodes(graph: BackwardGraph, backward: BackwardCall | None = None) -> tuple[NodePrediction, ...]:
    """Return for each node, in id order, whether and when backward executes it, and what it receives and returns.

    `backward` is how it will be called; None: as `graph.info` says. Takes time proportional to the size of the graph,
    without recursion; for the sources see `fxgrad.predict.engine`.
    """
    simulation = simulate(graph, backward)
    schedule, ranks = simulation.schedule, simulation.ranks
    statuses = zip(schedule.runs, simulation.grad_outputs, simulation.grad_inputs, schedule.behind, strict=True)
    return tuple(
        [
            NodePrediction(bool(runs), ranks.get(node), grad_outputs, grad_inputs, bool(behind))
            for node, (runs, grad_outputs, grad_inputs, behind) in enumerate(statuses)
        ]
    )


def find_raising_nodes(graph: BackwardGraph) -> tuple[Node | None, Node | None]:
    """Return the node at which backward raises, and one before that of which only its own code decides whether it does."""
    schedule = schedule_nodes(graph, graph.info.backward)
    certain, possible = [
        None if node is None else graph.nodes[node] for node in (schedule.raises_at, schedule.may_raise_at)
    ]
    return certain, possible


def find_order_caveat(graph: BackwardGraph) -> str | None:
    """Return why hooks may be called in another order than predicted; None if they may not.

    Each accelerator has a thread of its own (torch/csrc/autograd/engine.cpp, ``Engine::ready_queue``), and what several
    threads do at once has no order; they also start while the roots are still being queued.
    """
    devices = list(dict.fromkeys(_device(node) for node in graph.nodes))
    if len(devices) > 1:
        return f"each device ({', '.join(devices)}) has its own thread, so there is no order between them"
    if len(graph.roots) > 1 and devices != [_CPU]:
        return f"the thread of {devices[0]} starts while the {len(graph.roots)} roots are still being queued"
    return None


def _device(node: Node) -> str:
    """The device that the engine runs a node on: the first accelerator among its gradients (function.h, ``device``)."""
    devices = (meta.device for meta in node.grad_outputs)
    return next((device for device in devices if device.partition(":")[0] not in _HOST_DEVICES), _CPU)

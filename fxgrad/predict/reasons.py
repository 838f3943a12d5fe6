"""Why an entry is None or unknown, and why a hook is not called: sentences computed from the records, one function each."""

from __future__ import annotations

from fxgrad.graph import (
    BackwardGraph,
    CompiledBefore,
    Hook,
    HookSite,
    ModuleCall,
    Node,
    NodeKind,
    ReturnError,
    Sharding,
)
from fxgrad.graph.hook_kinds import HookArguments, HookMoment
from fxgrad.graph.lookup import is_used_outside
from fxgrad.graph.records import CHECKPOINT_ARGUMENTS
from fxgrad.graph.text import count_noun, escape, format_path, join_words, name_hook_function, pluralize
from fxgrad.predict.formulas import NONE, TENSOR, UNKNOWN, apply_special_formula, find_wanted_edges
from fxgrad.predict.simulation import Simulation, simulate

_MOST_LABELS = 3
_TOP_LEVEL = 2
"""The length of a path like ("result", 0)."""
_ENDED_BY_ALL_HOOK = "backward ends before it: an 'all' hook on several tensors raises"
_UNUSED = "no root depends on it"


# Entries


def explain_grad_output(simulation: Simulation, node: Node, slot: int) -> str | None:
    """Why a grad_output entry is None or unknown; None if it is a Tensor."""
    status = simulation.grad_outputs[node.id][slot]
    if status == UNKNOWN:
        return _explain_arrival(simulation, node, slot)
    return _explain_no_arrival(simulation, node, slot) if status == NONE else None


def _explain_arrival(simulation: Simulation, node: Node, slot: int) -> str:
    decider = simulation.graph.nodes[simulation.deciders[node.id, slot]]
    return f"{_describe_decision(decider)} whether a gradient arrives here"


def _explain_no_arrival(simulation: Simulation, node: Node, slot: int) -> str:
    users = simulation.graph.users_of_slots.get((node.id, slot), ())
    if not users:
        return _UNUSED
    executed = [user for user in users if simulation.runs(user)]
    if not executed:
        return "nothing that backward executes uses it"
    labels = [escape(simulation.graph.nodes[user].label) for user in executed[:_MOST_LABELS]]
    named = join_words(labels, most=_MOST_LABELS, total=len(executed))
    return f"{named} {pluralize(len(executed), 'returns', plural='return')} None for it"


def explain_leaf_without_grad(simulation: Simulation, site: HookSite) -> str:
    """What to add to the reason of a hook that gets a leaf whose .grad may stay as it is; "" if a gradient arrives."""
    if site.node is None or site.hook.kind.arguments is not HookArguments.LEAF:
        return ""
    why = explain_grad_output(simulation, simulation.graph.nodes[site.node], 0)
    if simulation.grad_outputs[site.node][0] == NONE:
        return f", and gets None: {why}, so .grad stays as it is"
    return "" if why is None else f"; {why}"


def find_refused_leaves(graph: BackwardGraph) -> dict[int, tuple[tuple[Node, str], ...]]:
    """Return the AccumulateGrad nodes that backward runs with None, each with the nodes that end the way to it, and why.

    Such a node receives a gradient and returns None for one of its edges, behind which the leaf is. Leaves that a nested
    backward may reach as well are left out.
    """
    simulation = simulate(graph)
    refusers: dict[int, dict[int, str]] = {}
    for node in graph.nodes:  # in topological order
        if simulation.runs(node.id) and all(status == NONE for status in simulation.grad_outputs[node.id]):
            refusers[node.id] = _find_refusers(simulation, node, refusers)
    leaves = (leaf for leaf in refusers if graph.nodes[leaf].kind.is_leaf and not simulation.is_shared(leaf))
    return {leaf: tuple((graph.nodes[node], why) for node, why in sorted(refusers[leaf].items())) for leaf in leaves}


def _find_refusers(simulation: Simulation, node: Node, known: dict[int, dict[int, str]]) -> dict[int, str]:
    """The nearest nodes before one that gets only None, which receive a gradient, each with why it returns None."""
    found: dict[int, str] = {}
    slots = [(node.id, slot) for slot in range(len(node.grad_outputs))]
    for user in {user for slot in slots for user in simulation.graph.users_of_slots.get(slot, ())}:
        before = simulation.graph.nodes[user]
        if user in known:
            found.update(known[user])
        elif simulation.runs(user):
            index = next(index for index, edge in enumerate(before.edges) if edge.next_node == node.id)
            found[user] = explain_grad_input(simulation, before, index) or ""
    return found


def explain_grad_input(simulation: Simulation, node: Node, index: int) -> str | None:
    """Why a grad_input entry is None or unknown; None if it is a Tensor."""
    status = simulation.grad_inputs[node.id][index]
    if status == TENSOR:
        return None
    if node.kind.decides_alone and status == UNKNOWN:
        return f"{_describe_decision(node)} whether this is a Tensor or None"
    if node.returned is not None and simulation.runs(node.id):
        # The code of the Python Function says so, whether or not the gradient would go anywhere.
        returned, null_reason = "backward returns None for it", node.edges[index].null_reason
        return returned if null_reason is None else f"{null_reason}, and {returned}"
    return _explain_formula(simulation, node, index) or _explain_absence(simulation, node, index)


def _explain_formula(simulation: Simulation, node: Node, index: int) -> str | None:
    """What is special about the node's own formula, if that is what makes the entry None or unknown."""
    special = apply_special_formula(simulation.graph, node, simulation.grad_outputs[node.id])
    if special is None or special.statuses[index] == TENSOR:
        return None
    return special.reason if find_wanted_edges(node, simulation.schedule.needed)[index] else None


def _explain_absence(simulation: Simulation, node: Node, index: int) -> str:
    if simulation.grad_inputs[node.id][index] == UNKNOWN:
        return _explain_unknown_arrival(simulation, node)
    if node.kind is NodeKind.BACKWARD_HOOK:
        return "no gradient arrives for it, and the hook on the module's outputs passes None on"
    edge = node.edges[index]
    if edge.next_node is None:
        return edge.null_reason or "its gradient goes nowhere"
    if not simulation.schedule.needed[edge.next_node]:
        return "none of the tensors in inputs= is behind it"
    if TENSOR in simulation.grad_outputs[node.id]:
        return "the same element of the result gets no gradient"
    return "no gradient arrives at this node"


def _explain_unknown_arrival(simulation: Simulation, node: Node) -> str:
    slots = [slot for slot in range(len(node.grad_outputs)) if (node.id, slot) in simulation.deciders]
    if slots:
        return _explain_arrival(simulation, node, slots[0])
    return "only backward decides whether this is zeros or None"


def _describe_decision(node: Node) -> str:
    if node.kind is NodeKind.CHECKPOINT:
        return f"the recomputation of {escape(node.label)} decides"
    if node.kind.is_python:
        return f"the backward of {escape(node.label)}, a Python function, decides"
    return f"{escape(node.label)} decides"


# Hooks that backward does not call


def explain_silence(simulation: Simulation, site: HookSite, *, raises: bool) -> str:
    """Why backward does not call the hook. `raises` says whether an "all" hook makes backward raise."""
    if site.node is None and site.fires is None and site.hook.sharding is not None:
        return _explain_unreduced(simulation, site, site.hook.sharding)
    if site.node is None:
        return (
            site.reason if site.fires is False else "this backward does not run the node that would start a nested one"
        )
    kind = site.hook.kind
    if not site.hook.active and not kind.is_module:
        return "its handle was removed"
    if kind.skips_leaves and simulation.graph.nodes[site.node].kind.is_leaf:
        return "retain_grad does nothing on a leaf"
    if kind.on_several_tensors and any(node in simulation.ranks for node, _ in site.hook.target_slots):
        return _explain_multi_grad(simulation, site.hook, raises=raises)
    if raises and _would_be_called(simulation, site, site.node):
        return _ENDED_BY_ALL_HOOK
    return _explain_at_node(simulation, site, site.node)


def _explain_unreduced(simulation: Simulation, site: HookSite, sharding: Sharding) -> str:
    """Why FSDP has no gradient of the parameter to reduce, after which it would call the hook."""
    if sharding.leaf is None or simulation.runs(sharding.leaf):
        return f"no gradient arrives for {escape(sharding.parameter)}, so FSDP has none to reduce"
    return _explain_at_node(simulation, site, sharding.leaf)


def explain_undecided_reduction(simulation: Simulation, sharding: Sharding) -> str:
    """Why only backward decides whether FSDP reduces a gradient of the parameter."""
    name = escape(sharding.parameter)
    if sharding.has_waiting:
        return f"FSDP may have a gradient of {name} from an earlier backward to reduce"
    if simulation.nesting:
        return f"{_describe_nested_backward(simulation)}, which may bring {name} a gradient to reduce"
    if simulation.schedule.raises_at is not None:
        label = escape(simulation.graph.nodes[simulation.schedule.raises_at].label)
        return f"{label} raises, and FSDP may have reduced the gradient of {name} by then"
    if simulation.call.after == "freed" or sharding.leaf is None:
        return "an earlier call freed the graph: this one raises at the first node that needs what was freed"
    return explain_grad_output(simulation, simulation.graph.nodes[sharding.leaf], 0) or ""


def _explain_multi_grad(simulation: Simulation, hook: Hook, *, raises: bool) -> str:
    """Why the hook is not called although backward reaches one of its tensors."""
    if simulation.refuses_leaf(hook):
        return "autograd.grad raises: one of the hook's tensors is a leaf in inputs="
    reached = sum(node in simulation.ranks for node, _ in hook.target_slots)
    if raises and 0 < simulation.count_awaited(hook) <= reached:
        return _ENDED_BY_ALL_HOOK
    return (
        "an 'all' hook waits for one gradient per node that PyTorch executes among those of "
        f"{', '.join(map(escape, hook.targets))}, and the root that backward starts from does not count"
    )


def _would_be_called(simulation: Simulation, site: HookSite, node: int) -> bool:
    """Whether the engine would call the hook if no hook raised before."""
    if site.hook.kind.moment <= HookMoment.RETAIN_GRAD:
        return node in simulation.ranks
    return simulation.runs(node) and not simulation.is_held_back(site)


def _explain_at_node(simulation: Simulation, site: HookSite, node: int) -> str:
    label = escape(simulation.graph.nodes[node].label)
    if node not in simulation.ranks:
        return _explain_unreached(simulation, node)
    if simulation.schedule.raises_at == node:
        return f"{label} raises when backward executes it{_explain_raising(simulation.graph.nodes[node])}"
    if simulation.schedule.runs[node]:
        return _explain_held_back(simulation, site)
    if simulation.call.api == "grad":
        return f"autograd.grad takes the gradient at {label} and does not execute it: only hooks on tensors are called"
    return f"{label} is the root, and none of the tensors in inputs= is behind it: only hooks on tensors are called"


def _explain_unreached(simulation: Simulation, node: int) -> str:
    label = escape(simulation.graph.nodes[node].label)
    if not simulation.schedule.behind[node]:
        return f"backward does not reach {label}: {_UNUSED}"
    raises_at = simulation.schedule.raises_at
    if raises_at is not None:
        raising = simulation.graph.nodes[raises_at]
        return f"backward ends before {label}: {escape(raising.label)} raises{_explain_raising(raising)}"
    return f"backward does not reach {label}: none of the tensors in inputs= is there or behind it"


def _explain_raising(node: Node) -> str:
    if node.return_error is not None:
        its_backward = "it" if node.return_error.is_missing else "its backward"
        return f", as {its_backward} {describe_return_error(node.return_error)}"
    return f", as what it saved {describe_lost_saved(node)}" if node.has_lost_saved else ""


def describe_return_error(error: ReturnError) -> str:
    """Why a Function's backward makes backward raise, as the end of a sentence.

    >>> describe_return_error(ReturnError(3, 2))
    'returns 2 values for the 3 arguments of forward'
    """
    if error.is_missing:
        return "has no backward"
    if error.got is None:
        return "always raises an error"
    values, arguments = count_noun(error.got, "value"), count_noun(error.expected, "argument")
    return f"returns {values} for the {arguments} of forward"


def describe_lost_saved(node: Node) -> str:
    """What became of what a node saved, as the end of a sentence: "was changed in place"."""
    if CHECKPOINT_ARGUMENTS in node.overwritten:
        return "cannot be computed again: an argument of its checkpoint was changed in place"
    return "was freed by an earlier backward" if node.freed else "was changed in place"


def _explain_held_back(simulation: Simulation, site: HookSite) -> str:
    call = simulation.module_call(site)
    output = None if call is None else call.output_hook_node
    if output is None:
        nested = _list_nested_results(simulation, call) if isinstance(call, ModuleCall) else []
        if nested:
            are = pluralize(len(nested), "is", plural="are")
            return (
                f"the gradient reaches the module's inputs through {join_words(nested)}, which {are} inside a container: a "
                "full hook waits for the results at the top level, and no root depends on those"
            )
        return "the gradient reaches the module's inputs, but no root depends on the module's outputs"
    return (
        "the gradient reaches the module's inputs on a path around its outputs: "
        f"{escape(simulation.graph.nodes[output].label)}, on the outputs, has not run by then"
    )


def _list_nested_results(simulation: Simulation, call: ModuleCall) -> list[str]:
    """The results inside a container that a full hook does not see, and that the roots depend on."""
    nested = [
        ref for ref in call.outputs if len(ref.path) > _TOP_LEVEL and is_used_outside(simulation.graph, call, ref)
    ]
    return [format_path(ref.path) for ref in nested]


def find_unreached_nodes(graph: BackwardGraph) -> dict[int, str]:
    """Return the nodes that backward, called as `graph.info` says, does not reach, each with why."""
    simulation = simulate(graph)
    return {node.id: _explain_unreached(simulation, node.id) for node in graph.nodes if node.id not in simulation.ranks}


# Hooks of which only backward decides


def explain_undecided(simulation: Simulation, site: HookSite) -> str | None:
    """Why only backward decides whether the hook is called; None if the records decide."""
    if site.node is None:
        return site.reason
    call = simulation.module_call(site)
    passed = call.find_compiled_before(site.hook) if isinstance(call, ModuleCall) else None
    if passed is not None:
        return explain_compiled(passed)
    if simulation.waits_for_output(site) and simulation.finds_earlier(site):
        return "an earlier backward reached only the module's outputs, and what it left for the hook may still be there"
    if simulation.call.after == "freed" and not _precedes_every_execution(simulation, site):
        return "an earlier call freed the graph: this one raises at the first node that needs what was freed"
    doubtful = simulation.schedule.may_raise_at
    if doubtful is not None and _comes_after(simulation, site, doubtful):
        return f"{escape(simulation.graph.nodes[doubtful].label)} raises before that {_explain_doubt(simulation.graph.nodes[doubtful])}"
    intruder = simulation.intruder
    if intruder is not None and simulation.ranks[site.node] > simulation.ranks[intruder.id]:
        return (
            f"{escape(intruder.label)} uses tensors of this graph that are not detached: a nested backward may reach "
            "their nodes first and free what they need"
        )
    return None


def _explain_doubt(node: Node) -> str:
    if node.kind is NodeKind.COPY_SLICES:
        return "if an earlier backward, which freed other nodes of this graph, executed it as well"
    return f"if its backward reads what it saved, which {describe_lost_saved(node)}"


def explain_compiled(passed: CompiledBefore) -> str:
    """Why only the compiled code decides whether a hook is called."""
    function = escape(passed.function)
    if passed.certain:
        return (
            f"torch.compile compiled {function} before the hook was registered: what it made then passes the hook by, and "
            "only code that it compiles anew calls it"
        )
    return (
        f"torch.compile has compiled {function}, and it is not known whether it did so before the hook was registered: "
        "then it passes the hook by"
    )


def _comes_after(simulation: Simulation, site: HookSite, node: int) -> bool:
    """Whether the hook is called after a node was executed."""
    if site.node == node:
        return site.hook.kind.moment > HookMoment.PRE_HOOK
    return site.node is not None and simulation.ranks[site.node] > simulation.ranks[node]


def _precedes_every_execution(simulation: Simulation, site: HookSite) -> bool:
    """Whether the hook is certainly called once, before the first node is executed."""
    is_early = site.hook.kind.moment <= HookMoment.PRE_HOOK and site.hook.mode != "all"
    return is_early and simulation.schedule.order[0] == site.node


def explain_uncounted(simulation: Simulation, site: HookSite) -> str | None:
    """Why the number of calls is not known; None if it is."""
    if site.node is not None and simulation.is_shared(site.node):
        return explain_nesting(simulation)
    return _explain_attached_again(simulation.graph, site)


def _explain_attached_again(graph: BackwardGraph, site: HookSite) -> str | None:
    """Why a non-full hook may be called twice: a non-reentrant checkpoint runs the module's call again in backward, from
    arguments with their own grad_fn (torch/utils/checkpoint.py, _CheckpointFrame.get_inputs). A module that returns its
    argument as it is has its hook attached there again. Nodes that the call makes itself are made anew, and never run."""
    if site.node is None or not site.hook.kind.is_legacy or not _may_run_again(graph, site.node, site.call):
        return None
    again = "runs this call again" if site.call is not None else "runs forward again"
    return (
        f"{'the' if site.call is not None else 'a'} checkpoint around {again} during backward, which may attach the hook to "
        f"{escape(graph.nodes[site.node].label)} once more"
    )


def _may_run_again(graph: BackwardGraph, node: int, call: str | None) -> bool:
    """Whether a non-reentrant checkpoint may run a call again which did not make the node. Of a call that was not
    recorded nothing is known."""
    if call is None:
        return graph.recomputes
    if graph.calls_by_id[call].checkpointed != "non-reentrant":
        return False
    made_in = graph.nodes[node].call
    return made_in is None or not graph.is_within(made_in, call)


def explain_nesting(simulation: Simulation) -> str:
    """What a backward that starts inside this one does to the hooks that it reaches."""
    where = "the hooks on leaves" if simulation.intruder is None else "the hooks on leaves, and on what it reaches,"
    return f"{_describe_nested_backward(simulation)}, which calls {where} once more if it uses them"


def explain_miscounting(simulation: Simulation) -> str:
    """What it does to a multi-grad hook, which counts the gradients of each backward by itself."""
    return (
        f"{_describe_nested_backward(simulation)}, which also calls the hook for those of its tensors that it "
        "reaches: only backward decides how often, and with which gradients"
    )


def _describe_nested_backward(simulation: Simulation) -> str:
    node = simulation.nesting[0]
    hook = simulation.graph.nesting_hooks.get(node.id)
    if hook is not None:
        return f"{name_hook_function(hook)}, a hook on {escape(node.label)}, may run a nested backward"
    runs = "runs" if node.kind is NodeKind.CHECKPOINT else "may run"
    return f"{escape(node.label)} {runs} a nested backward"

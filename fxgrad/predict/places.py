"""Which node and slot each hook is on, and why that one: one site for each hook and place, before anything is predicted.

Hooks on tensors and nodes are where they were observed. Where a module hook is follows from the module's calls
(torch/nn/modules/module.py, ``_call_impl``, and torch/utils/hooks.py, ``BackwardHook``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Hook, HookSite, Landing, ModuleCall, Node, NodeKind, Sharding
from fxgrad.graph.hook_kinds import HookArguments, HookOwner
from fxgrad.graph.text import add_article, escape, format_path, name_call_in_transform, name_hook_function

_NOT_SHARDED = "forward uses the unsharded parameter that FSDP gathers, and backward does not reach the sharded {name}"
_OF_ONE_TENSOR = (HookOwner.TENSOR, HookOwner.LEAF)
_TOP_LEVEL = 2
"""The length of a path like ("result", 0)."""

_LEAF_IN_CHECKPOINT = (
    "a reentrant checkpoint recomputes during backward, and calls the hooks of every leaf that it uses"
)
_RUN_AGAIN_BY_CHECKPOINT = (
    "a reentrant checkpoint runs this call again during backward, and its hooks are attached and called then"
)
_RUN_AGAIN_BY_FUNCTION = (
    "a custom Function made this call, and the backward of that Function may run it again: its hooks are "
    "attached and called then"
)


def find_places(graph: BackwardGraph) -> tuple[HookSite, ...]:
    """Find the places of every registered hook, in the order of registration.

    A module hook has one site for each call that captured it; any other hook has one, where it was observed. A hook
    without a place has one site too: ``call`` and ``node`` are None, ``fires`` is False (None if a reentrant checkpoint
    decides), and ``reason`` says why. What the sites receive, and when, is not predicted here.
    """
    finder = PlaceFinder(graph)
    return tuple(
        site
        for hook in graph.hooks
        for site in (finder.find_module_sites(hook) if hook.kind.is_module else finder.find_observed_sites(hook))
    )


def make_site_on_node(hook: Hook, *, call: str | None, node: int, slot: int | None, reason: str) -> HookSite:
    """Make a site on a node; whether the hook is called there is not predicted yet."""
    return HookSite(hook, call, node, slot, (), (), fires=None, times=None, order=None, reason=reason)


def make_silent_site(hook: Hook, reason: str, *, call: str | None = None) -> HookSite:
    """Make a site without a node: the hook is never called there."""
    return HookSite(hook, call, None, None, (), (), fires=False, times=0, order=None, reason=reason)


def make_undecided_site(hook: Hook, reason: str, *, call: str | None = None) -> HookSite:
    """Make a site without a node, of a hook that may be called all the same: with how many entries is not known."""
    counted = hook.kind.gets_one_gradient or hook.kind.arguments is HookArguments.LEAF
    grad_input = None if hook.kind.gets_grad_input else ()
    grad_output = () if counted else None
    return HookSite(hook, call, None, None, grad_input, grad_output, fires=None, times=None, order=None, reason=reason)


class PlaceFinder:
    """Finds the places of the hooks of one graph."""

    def __init__(self, graph: BackwardGraph) -> None:
        self._graph = graph

    # Hooks on tensors and nodes

    def find_observed_sites(self, hook: Hook) -> Iterator[HookSite]:
        """Find the site of a hook on a tensor, on several tensors or on a node; of a leaf one at each AccumulateGrad."""
        yield self._find_observed_site(hook)
        leaf = self._graph.variables_by_name.get(hook.owner)
        if leaf is None or hook.observed is None or not hook.active or hook.kind.owner not in _OF_ONE_TENSOR:
            return
        for node in leaf.earlier:
            if node != hook.observed[0]:
                slot = 0 if hook.kind.gets_one_gradient else None
                reason = _explain_tensor_place(self._graph.nodes[node], 0)
                yield make_site_on_node(hook, call=None, node=node, slot=slot, reason=reason)

    def _find_observed_site(self, hook: Hook) -> HookSite:
        if hook.kind.on_several_tensors:
            return self._find_multi_grad_site(hook)
        if hook.observed is None:
            return self._make_unobserved_site(hook)
        node, slot = hook.observed
        record = self._graph.nodes[node]
        if hook.sharding is not None and hook.sharding.refusal is None and hook.sharding.may_get_gradient:
            name = escape(hook.sharding.parameter)
            return make_undecided_site(
                hook,
                f"autograd calls it at {escape(record.label)}, and FSDP when it has reduced the gradient of {name}",
            )
        if hook.kind.owner is HookOwner.NODE:
            return make_site_on_node(
                hook, call=None, node=node, slot=None, reason=f"it was registered on {escape(record.label)} itself"
            )
        reason = _explain_tensor_place(record, slot or 0)
        slot = slot or 0 if hook.kind.gets_one_gradient else None
        return make_site_on_node(hook, call=None, node=node, slot=slot, reason=reason)

    def _find_multi_grad_site(self, hook: Hook) -> HookSite:
        places = [(node, slot) for node, slot in hook.target_slots if node is not None]
        if hook.active and hook.more_targets is not None:
            return make_undecided_site(hook, hook.more_targets)
        if not places:
            return self._make_unobserved_site(hook)
        node, slot = places[0]
        first = "with the first gradient that arrives"
        waits = first if hook.mode == "any" else "once the gradients of all have arrived"
        several = f"in the graph: {len(places)} of its {len(hook.target_slots)} tensors"
        return make_site_on_node(hook, call=None, node=node, slot=slot, reason=f"{several}; it is called {waits}")

    def _make_unobserved_site(self, hook: Hook) -> HookSite:
        if not hook.active:
            return make_silent_site(hook, "its handle was removed")
        if self._graph.nesting and self._may_be_on_leaf(hook) and not hook.is_called_by_fsdp:
            in_checkpoint = self._graph.nests_in_checkpoints
            return make_undecided_site(hook, _LEAF_IN_CHECKPOINT if in_checkpoint else self._leaf_in_nested_backward)
        if hook.sharding is not None:
            return self._make_sharded_site(hook, hook.sharding)
        reason = hook.unplaced or "no root depends on what it is registered on"
        if self._reaches_elsewhere is not None:
            return make_undecided_site(hook, f"{reason}; {self._reaches_elsewhere}")
        return make_silent_site(hook, reason)

    def _make_sharded_site(self, hook: Hook, sharding: Sharding) -> HookSite:
        """The site of a hook on a parameter that ``fully_shard`` manages, outside of the graph."""
        name = escape(sharding.parameter)
        if sharding.is_replaced:
            return make_silent_site(
                hook, f"fully_shard has replaced {name} since, and the new parameter has no such hook"
            )
        if not hook.is_called_by_fsdp:
            return make_silent_site(hook, _NOT_SHARDED.format(name=name))
        if sharding.refusal is not None:
            return make_silent_site(hook, sharding.refusal)
        if not (sharding.may_get_gradient or self._graph.nesting):
            return make_silent_site(hook, f"no root depends on {name}, so FSDP has no gradient of it to reduce")
        return make_undecided_site(hook, f"FSDP calls it when it has reduced the gradient of {name}")

    def _may_be_on_leaf(self, hook: Hook) -> bool:
        """Whether the hook may be on a leaf that requires grad: what is known of its owners does not say otherwise."""
        variables = self._graph.variables_by_name
        owners = [variables.get(name) for name in hook.targets or (hook.owner,)]
        may_be = any(owner is None or (owner.is_leaf and owner.requires_grad) for owner in owners)
        return may_be and not hook.kind.skips_leaves

    # Module hooks

    def find_module_sites(self, hook: Hook) -> Iterator[HookSite]:
        """Find one site for each call that captured the hook, recorded or not; one with the reason if none did."""
        calls = self._graph.calls_by_hook.get(hook.id, ())
        at_calls = [site for call in calls for site in self._find_sites_at_call(hook, call)]
        nodes = self._find_earlier_nodes(hook, Counter(site.node for site in at_calls))
        yield from at_calls
        for node in nodes:
            yield make_site_on_node(hook, call=None, node=node.id, slot=None, reason=self._explain_found(node))
        unseen = self._calls_unseen_modules if hook.active else None
        if unseen is not None:
            yield make_undecided_site(
                hook, unseen if at_calls or nodes else f"{self._explain_uncaptured(hook)}, and {unseen}"
            )
        elif not at_calls and not nodes:
            yield self._make_uncaptured_site(hook)

    def _find_earlier_nodes(self, hook: Hook, known: Counter[int | None]) -> list[Node]:
        """Find nodes that carry the hook from calls that were not recorded; `known` counts those of recorded calls."""
        found = []
        for node in self._graph.nodes_by_hook.get(hook.id, ()):
            if known[node.id]:
                known[node.id] -= 1
            elif hook.kind.is_legacy or node.id in self._graph.unrecorded_calls_by_node:
                found.append(node)
        return found

    def _explain_found(self, node: Node) -> str:
        call = self._graph.unrecorded_calls_by_node.get(node.id)
        if call is None:
            return f"it was found on {escape(node.label)}"
        side = "the inputs" if node.id == call.input_hook_node else "the outputs"
        return f"it was found on the node that PyTorch put on {side} of {escape(call.path) or 'the model'}"

    def _make_uncaptured_site(self, hook: Hook) -> HookSite:
        reason = self._explain_uncaptured(hook)
        if hook.active and self._calls_any_module is not None and not self._calls_of_owner(hook):
            return make_undecided_site(hook, f"{reason}, and {self._calls_any_module}")
        return make_silent_site(hook, reason)

    def _explain_uncaptured(self, hook: Hook) -> str:
        """Why no call captured the hook."""
        if self._graph.info.calls_reason is not None:
            return f"it was found on no node; {self._graph.info.calls_reason}"
        calls = len(self._graph.calls if hook.kind.is_global else self._calls_of_owner(hook))
        if not calls:
            return "no module was called" if hook.kind.is_global else self._explain_not_called(hook)
        unflagged = self._explain_unflagged(hook)
        if unflagged is not None:
            return unflagged
        took = "the module's call did not capture" if calls == 1 else f"none of the {calls:,} calls captured"
        removed = "" if hook.active else ", and its handle was removed since"
        return f"{took} it: a call captures the hooks that are registered when it starts{removed}"

    def _explain_unflagged(self, hook: Hook) -> str | None:
        """Why no call captures a registered hook: the flag that says which kind a table of hooks holds says nothing."""
        if hook.kind.is_full_pre or not hook.active:
            return None
        if hook.kind.is_global:
            known, flag = self._graph.info.global_backward_sticky, "_global_is_full_backward_hook"
            return None if known is not None else f"{flag} is None, so calls capture neither full nor non-full hooks"
        module = self._graph.modules_by_path.get(hook.owner)
        if module is None or module.full_backward_sticky is not None:
            return None
        if module.wraps is None:
            return "its _is_full_backward_hook is None, so its calls capture neither full nor non-full hooks"
        inside = escape(module.wraps)
        return (
            f"torch.compile returned this module, and registering on it sets _is_full_backward_hook of {inside}, the "
            "module inside; no call captures the hooks of this module itself"
        )

    def _explain_not_called(self, hook: Hook) -> str:
        module = self._graph.modules_by_path.get(hook.owner)
        named = self._graph.variables_by_name
        variables = [named[name] for name in (module.parameters if module else ()) if name in named]
        used = any(self._graph.find_gradient_node(variable) is not None for variable in variables)
        return f"the module was never called{', though backward reaches its parameters' if used else ''}"

    def _calls_of_owner(self, hook: Hook) -> tuple[ModuleCall, ...]:
        module = self._graph.modules_by_path.get(hook.owner)
        return self._graph.calls_by_path.get(module.path if module else hook.owner, ())

    def _find_sites_at_call(self, hook: Hook, call: ModuleCall) -> Iterator[HookSite]:
        site = self._find_site_at_call(hook, call)
        if call.checkpointed == "function" or (call.checkpointed == "reentrant" and not call.grad_enabled):
            if site.node is not None:  # a tensor of the graph around has passed through
                yield site
            yield self._make_site_in_rerun(hook, call)
        else:
            yield site

    def _find_site_at_call(self, hook: Hook, call: ModuleCall) -> HookSite:
        if not call.completed:
            return make_silent_site(hook, "the call raised before its hooks were attached", call=call.id)
        site = self._find_non_full_site(hook, call) if hook.kind.is_legacy else self._find_full_site(hook, call)
        if call.transforms and site.node is None:
            return replace(site, reason=f"{name_call_in_transform(call)}: {site.reason}")
        return site

    def _make_site_in_rerun(self, hook: Hook, call: ModuleCall) -> HookSite:
        """The site of a call that backward runs again, in a reentrant checkpoint or in a custom Function."""
        is_checkpoint = call.checkpointed == "reentrant"
        around = "a reentrant checkpoint" if is_checkpoint else "a custom Function"
        if call.gradless is not None and self._graph.nests_in_checkpoints:
            reason = f"it ran in {around} that got no tensor that requires grad, so backward does not run it again"
            return make_silent_site(hook, reason, call=call.id)
        if not self._graph.nesting:
            reason = f"it ran in {around} that no root depends on, or that got no tensor that requires grad"
            return make_silent_site(hook, reason, call=call.id)
        return make_undecided_site(
            hook, _RUN_AGAIN_BY_CHECKPOINT if is_checkpoint else _RUN_AGAIN_BY_FUNCTION, call=call.id
        )

    def _make_unreached_site(self, hook: Hook, call: ModuleCall, reason: str) -> HookSite:
        """A site on a node that the roots do not lead to, but something else may."""
        elsewhere = self._reaches_elsewhere
        if elsewhere is None:
            return make_silent_site(hook, reason, call=call.id)
        return make_undecided_site(hook, f"{reason}; {elsewhere}", call=call.id)

    def _find_non_full_site(self, hook: Hook, call: ModuleCall) -> HookSite:
        tensor = call.legacy_tensor
        if tensor is None:
            return make_silent_site(hook, call.legacy_reason or "the result holds no tensor", call=call.id)
        where = format_path(tensor.path)
        if not tensor.requires_grad:
            disabled = "" if call.grad_enabled else " (gradients are disabled)"
            return make_silent_site(
                hook, f"{where} does not require grad{disabled}, so it has no grad_fn", call=call.id
            )
        if tensor.is_leaf:
            return make_silent_site(hook, f"{where} is a leaf, which has no grad_fn", call=call.id)
        if tensor.node is None:
            grad_fn = escape(tensor.node_name or "the grad_fn")
            reason = f"it is on {grad_fn}, the grad_fn of {where}: no root depends on it"
            return self._make_unreached_site(hook, call, reason)
        type_name = escape(call.type_name)
        is_only = len(call.outputs) == 1
        result = f"what {type_name} returns" if is_only else f"the first tensor {type_name} returns, {where}"
        return make_site_on_node(hook, call=call.id, node=tensor.node, slot=None, reason=f"the grad_fn of {result}")

    def _find_full_site(self, hook: Hook, call: ModuleCall) -> HookSite:
        setup = call.full_hook
        if setup is None:
            return make_silent_site(hook, "PyTorch set up no hook for this call", call=call.id)
        if setup.output_positions is None:
            waits = "it waits for the gradients of the results, and " if hook.kind.is_full else ""
            return make_silent_site(hook, f"{waits}{_explain_no_output(call)}", call=call.id)
        if hook.kind.is_full and setup.input_positions is not None:
            return self._find_input_site(hook, call)
        return self._find_output_site(hook, call)

    def _find_input_site(self, hook: Hook, call: ModuleCall) -> HookSite:
        where = "the node that PyTorch put on the module's inputs"
        if call.input_hook_node is None:
            return self._make_unreached_site(hook, call, f"it is on {where}, and no root depends on that node")
        return make_site_on_node(hook, call=call.id, node=call.input_hook_node, slot=None, reason=where)

    def _find_output_site(self, hook: Hook, call: ModuleCall) -> HookSite:
        why = "" if hook.kind.is_full_pre else ", because no positional input requires grad"
        where = f"the node that PyTorch put on the module's outputs{why}"
        if call.output_hook_node is None:
            return self._make_unreached_site(hook, call, f"it is on {where}, and no root depends on that node")
        return make_site_on_node(hook, call=call.id, node=call.output_hook_node, slot=None, reason=where)

    # What a backward that starts inside this one may do

    @cached_property
    def _reaches_elsewhere(self) -> str | None:
        """What may reach nodes that the roots do not lead to; None if nothing does.

        The code of a Function may have kept any tensor; a checkpoint reaches what its function uses of the graph around.
        """
        for node in self._graph.nesting:
            if node.kind is NodeKind.CUSTOM_FUNCTION or (None, 0) in self._graph.list_entries(node):
                return f"{self._name_nesting(node)} may start a nested backward, which may reach it"
        return None

    def _name_nesting(self, node: Node) -> str:
        hook = self._graph.nesting_hooks.get(node.id)
        return escape(node.label) if hook is None else f"{name_hook_function(hook)}, a hook on {escape(node.label)},"

    @property
    def _leaf_in_nested_backward(self) -> str:
        nodes = self._graph.nesting
        by_hook = all(node.id in self._graph.nesting_hooks for node in nodes)
        starts = self._name_nesting(nodes[0]) if by_hook else "a custom Function"
        return f"{starts} may start a nested backward, which calls the hooks of every leaf that it uses"

    @cached_property
    def _calls_unseen_modules(self) -> str | None:
        """What may call modules again although the recorded calls do not show it; None if nothing does.

        They do not show it if no call was recorded, or if a custom Function called no module in forward.
        """
        if self._graph.info.calls_reason is not None:
            if not self._graph.nesting:
                return None
            return f"{self._name_nesting(self._graph.nesting[0])} may run modules again, whose hooks are then attached and called"
        if any(call.checkpointed == "function" for call in self._graph.calls):
            return None
        return self._calls_any_module

    @cached_property
    def _calls_any_module(self) -> str | None:
        """What may call modules that forward never called; None if nothing does."""
        for node in self._graph.nesting:
            hook = self._graph.nesting_hooks.get(node.id)
            if hook is not None:
                return f"only {name_hook_function(hook)}, a hook that starts a backward, decides whether to call it"
            if node.kind is NodeKind.CUSTOM_FUNCTION:
                return f"only the backward of {escape(node.label)} decides whether to call it"
        return None


def _explain_tensor_place(node: Node, slot: int) -> str:
    if node.variable is not None:
        return f"{escape(node.label)} adds into the leaf {escape(node.variable)}"
    if len(node.grad_outputs) == 1:
        return f"the tensor's gradient goes into {escape(node.label)}"
    return f"the tensor's gradient goes into {escape(node.label)}, slot {slot}"


def _explain_no_output(call: ModuleCall) -> str:
    if not call.grad_enabled:
        return "gradients are disabled"
    grads = [ref.path for ref in call.outputs if ref.requires_grad]
    if not grads and not call.is_opaque:
        return "no tensor in the result requires grad"
    if grads and all(len(path) > _TOP_LEVEL for path in grads):
        return "the tensors in the result that require grad are nested: only those at its top level are hooked"
    return (
        f"the result is {add_article(escape(call.result_type))}: only a tensor, or the tensors of a tuple, are hooked"
    )


def find_landings(graph: BackwardGraph) -> tuple[Landing, ...]:
    """Find where non-full hooks land, registered or not: for each module call the node of the first tensor it returns.

    Calls whose first result has no grad_fn in the graph are left out.
    """
    return tuple(landing for call in graph.calls for landing in _find_landing(graph, call))


def _find_landing(graph: BackwardGraph, call: ModuleCall) -> Iterator[Landing]:
    first = call.legacy_tensor
    if call.completed and first is not None and first.node is not None and not first.is_leaf:
        node = graph.nodes[first.node]
        yield Landing(call.id, node.name, len(node.edges), len(node.grad_outputs))

"""The look-ups over one graph that finding places needs."""

from __future__ import annotations

from functools import cached_property

from fxgrad.graph import BackwardGraph, Hook, HookSite, ModuleCall, Node, NodeKind
from fxgrad.graph.text import escape


class Surroundings:
    """A graph, with its calls and nodes by the hooks that they carry."""

    def __init__(self, graph: BackwardGraph) -> None:
        self.graph = graph

    @cached_property
    def calls_by_hook(self) -> dict[int, list[ModuleCall]]:
        """The calls that took each hook along, in the order of their start."""
        found: dict[int, list[ModuleCall]] = {}
        for call in self.graph.calls:
            for hook in dict.fromkeys(call.hooks):
                found.setdefault(hook, []).append(call)
        return found

    @cached_property
    def calls_by_path(self) -> dict[str, list[ModuleCall]]:
        """The calls of each module."""
        found: dict[str, list[ModuleCall]] = {}
        for call in self.graph.calls:
            found.setdefault(call.path, []).append(call)
        return found

    @cached_property
    def nodes_by_hook(self) -> dict[int, list[Node]]:
        """The nodes whose post-hooks list each hook, once for every time that they do."""
        found: dict[int, list[Node]] = {}
        for node in self.graph.nodes:
            for hook in node.hooks:
                found.setdefault(hook, []).append(node)
        return found

    @cached_property
    def nested_elsewhere(self) -> str | None:
        """What may come, in a backward of its own, to what the roots do not lead to; None where nothing does.

        A Function's own code may have kept any tensor; a checkpoint comes to what its function uses of the graph around.
        """
        for node in self.graph.nesting:
            if node.kind is NodeKind.CUSTOM_FUNCTION or (None, 0) in (node.nested_backward or ()):
                return f"{escape(node.label)} may start a backward of its own, which may come there"
        return None

    @cached_property
    def unseen_calls(self) -> str | None:
        """What may call modules again in backward of which forward's calls do not tell; None where they tell.

        They do not where no call was recorded, nor where a custom Function calls no module before backward.
        """
        if self.graph.info.calls_reason is not None:
            node = next(iter(self.graph.nesting), None)
            return (
                None
                if node is None
                else f"{escape(node.label)} may run modules again, whose hooks then attach and fire"
            )
        if any(call.checkpointed == "function" for call in self.graph.calls):
            return None
        return self.may_run_anything

    @cached_property
    def may_run_anything(self) -> str | None:
        """What may call modules during backward that forward never called; None where nothing does."""
        node = next((node for node in self.graph.nesting if node.kind is NodeKind.CUSTOM_FUNCTION), None)
        return None if node is None else f"only the backward of {escape(node.label)} knows whether it calls it"


def placed(hook: Hook, *, call: str | None, node: int, slot: int | None, reason: str) -> HookSite:
    """A site on a node; whether the hook is called there is not predicted yet."""
    return HookSite(hook, call, node, slot, (), (), fires=None, times=None, order=None, reason=reason)


def unplaced(hook: Hook, reason: str, *, call: str | None = None) -> HookSite:
    """A site without a node: the hook is never called there."""
    return HookSite(hook, call, None, None, (), (), fires=False, times=0, order=None, reason=reason)


def undecided(hook: Hook, reason: str, *, call: str | None = None) -> HookSite:
    """A site without a node, of a hook that may be called all the same."""
    return HookSite(hook, call, None, None, (), (), fires=None, times=None, order=None, reason=reason)

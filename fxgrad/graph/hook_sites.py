"""The sites of a graph by hook and owner: what one section of a report, or one finding, is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fxgrad.graph.backward_graph import BackwardGraph
from fxgrad.graph.records import Hook, HookSite, Module, ModuleCall, Node


class PlacedSite(NamedTuple):
    """A site that is on a node, with that node, and the module call it belongs to where there is one."""

    site: HookSite
    node: Node
    call: ModuleCall | None


@dataclass(frozen=True)
class HookSites:
    """The sites that one hook has at one owner. A global hook has one of these for each module that it is called for.

    ``path`` is the module's path, or the hook's owner where the hook is on a tensor or a node. ``sites`` keep the order
    of the graph, which is the predicted firing order.
    """

    graph: BackwardGraph = field(repr=False)
    hook: Hook
    path: str
    sites: tuple[HookSite, ...]

    @property
    def key(self) -> tuple[int, str]:
        """What `find_owner` answers for each of the sites."""
        return self.hook.id, self.path

    @property
    def module(self) -> Module | None:
        """The module that the hook is called for; None for hooks on tensors and nodes."""
        return self.graph.modules_by_path.get(self.path) if self.hook.kind.is_module else None

    @cached_property
    def calls(self) -> tuple[ModuleCall, ...]:
        """Every call of that module, also those without a site."""
        path = self.module.path if self.module else self.path
        return self.graph.calls_by_path.get(path, ()) if self.hook.kind.is_module else ()

    @cached_property
    def placed(self) -> tuple[PlacedSite, ...]:
        """The sites that are on a node."""
        nodes = self.graph.nodes
        return tuple(
            PlacedSite(site, nodes[site.node], self.call(site)) for site in self.sites if site.node is not None
        )

    @cached_property
    def firing(self) -> tuple[HookSite, ...]:
        """The sites that fire, or may."""
        return tuple(site for site in self.sites if site.fires is not False)

    def call(self, site: HookSite) -> ModuleCall | None:
        """The call that one of the sites belongs to."""
        return self.graph.calls_by_id.get(site.call) if site.call is not None else None


def group_sites(graph: BackwardGraph) -> tuple[HookSites, ...]:
    """Every hook at every owner, in the order of the first site of each."""
    found: dict[tuple[int, str], list[HookSite]] = {}
    for site in graph.sites:
        found.setdefault(find_owner(graph, site), []).append(site)
    return tuple(HookSites(graph, sites[0].hook, path, tuple(sites)) for (_, path), sites in found.items())


def find_owner(graph: BackwardGraph, site: HookSite) -> tuple[int, str]:
    """The hook's id and the path of the owner that it has this site at."""
    call = graph.calls_by_id.get(site.call) if site.call is not None else None
    return site.hook.id, call.path if call is not None and site.hook.kind.is_module else site.hook.owner

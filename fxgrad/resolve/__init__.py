"""Which node each hook sits on, and why that one: one site per hook and place, before anything is predicted."""

from __future__ import annotations

from fxgrad.graph import BackwardGraph, HookSite
from fxgrad.resolve.modules import module_sites
from fxgrad.resolve.observed import observed_site
from fxgrad.resolve.surroundings import Surroundings

__all__ = ["resolve"]


def resolve(graph: BackwardGraph) -> tuple[HookSite, ...]:
    """Find the places of every registered hook, in the order of registration.

    A module hook has one site for each call that took it along; any other hook has one, where it was observed. A hook
    without any place has one site too: ``call`` and ``node`` None, ``fires`` False (None where a reentrant checkpoint
    decides) and the reason. What the sites receive, and when, is left to `fxgrad.predict`.
    """
    surroundings = Surroundings(graph)
    return tuple(
        site
        for hook in graph.hooks
        for site in (module_sites(surroundings, hook) if hook.kind.is_module else [observed_site(surroundings, hook)])
    )

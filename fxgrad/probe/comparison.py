"""Which existing hooks the new one would change, and how."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from msgspec.structs import replace

from fxgrad.graph import Gradient, HookSite


def moved_sites(
    before: Iterable[HookSite], after: Iterable[HookSite], ids: Mapping[int, int]
) -> Iterator[tuple[HookSite, HookSite]]:
    """The sites (before, after) that are on another node, get something else, or are called another number of times.

    `ids` gives the new id of each node. A site that only comes earlier or later among the others is not one of them.
    """
    counterparts = _by_key(after)
    for key, sites in _by_key(before).items():
        for site, counterpart in zip_longest(sites, counterparts.get(key, [])):
            if site is None:  # a multi-grad hook is called once more
                yield _not_called(counterpart), counterpart
            elif counterpart is None:
                yield site, _not_called(site)
            elif _is_changed(site, counterpart, ids):
                yield site, counterpart


def _by_key(sites: Iterable[HookSite]) -> dict[tuple[int, str | None], list[HookSite]]:
    found: dict[tuple[int, str | None], list[HookSite]] = defaultdict(list)
    for site in sites:
        found[site.hook.id, site.call].append(site)
    return found


def _not_called(site: HookSite) -> HookSite:
    """In place of a call of a multi-grad hook that backward makes only with the new hook, or only without it."""
    silent = replace(site, node=None, slot=None, grad_input=(), grad_output=())
    return replace(silent, fires=False, times=0, order=None, reason="backward does not call the hook once more")


def _is_changed(before: HookSite, after: HookSite, ids: Mapping[int, int]) -> bool:
    node = None if before.node is None else ids.get(before.node)
    return (
        (node, before.slot, before.fires, before.times) != (after.node, after.slot, after.fires, after.times)
        or _contents(before.grad_input) != _contents(after.grad_input)
        or _contents(before.grad_output) != _contents(after.grad_output)
    )


def _contents(gradients: Iterable[Gradient]) -> list[object]:
    return [(gradient.status, gradient.shape, gradient.dtype) for gradient in gradients]

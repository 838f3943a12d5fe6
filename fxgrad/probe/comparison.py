"""Which existing hooks the new one would change, and how."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from fxgrad.graph import Gradient, HookSite


def moved_sites(
    before: Iterable[HookSite], after: Iterable[HookSite], ids: Mapping[int, int]
) -> Iterator[tuple[HookSite, HookSite]]:
    """The sites (before, after) that are on another node, get something else, or are called another number of times.

    `ids` gives the new id of each node. A site that only comes earlier or later among the others is not one of them.
    """
    counterparts: dict[tuple[int, str | None], list[HookSite]] = defaultdict(list)
    for site in after:
        counterparts[site.hook.id, site.call].append(site)
    for site in before:
        counterpart = counterparts[site.hook.id, site.call].pop(0)
        if _is_changed(site, counterpart, ids):
            yield site, counterpart


def _is_changed(before: HookSite, after: HookSite, ids: Mapping[int, int]) -> bool:
    node = None if before.node is None else ids.get(before.node)
    return (
        (node, before.slot, before.fires, before.times) != (after.node, after.slot, after.fires, after.times)
        or _contents(before.grad_input) != _contents(after.grad_input)
        or _contents(before.grad_output) != _contents(after.grad_output)
    )


def _contents(gradients: Iterable[Gradient]) -> list[object]:
    return [(gradient.status, gradient.shape, gradient.dtype) for gradient in gradients]

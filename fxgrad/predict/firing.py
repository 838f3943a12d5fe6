"""In which order hooks are called: node by node as the engine runs, and at each node by what they are registered on.

At one node (torch/csrc/autograd/engine.cpp, ``evaluate_function`` and ``call_function``): tensor hooks, retain_grad,
prehooks, the node itself (for a leaf the post-accumulate hooks, torch/csrc/autograd/functions/accumulate_grad.cpp),
post-hooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from fxgrad.graph import HookKind, HookSite, UnrecordedCall
from fxgrad.predict import multi_grad
from fxgrad.predict.flow import INPUT_SIDE
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.places import Place, TensorHook, is_alive, places
from fxgrad.predict.reasons import counting_reason


class HookCall(NamedTuple):
    """One call of a hook: of which site, by its number, and which call of it, from 0."""

    site: int
    nth: int


class Firing:
    """The calls of hooks in one backward.

    ``calls``      in order; a multi-grad hook may be called more than once
    ``counters``   by number, what became of each multi-grad hook
    ``by_others``  numbers of the sites whose hook this backward does not call, but one that starts inside it may
    ``raised_by``  number of the site whose hook makes backward raise, which ends it; None: there is none
    """

    def __init__(self, outlook: Outlook, sites: Sequence[HookSite]) -> None:
        self._outlook = outlook
        self._sites = sites
        self._places = places(outlook.graph, sites)
        left_open = {number for number, site in enumerate(sites) if site.node is None and site.fires is None}
        self._somewhere = {number for number in left_open if sites[number].hook.more_targets is not None}
        self._recomputed = left_open - self._somewhere
        self._miscounted = {number for number, site in enumerate(sites) if is_miscounted(outlook, site)}
        self.by_others: frozenset[int] = frozenset()
        self.raised_by: int | None = None
        self.counters = {
            number: multi_grad.Counter(outlook, site.hook)
            for number, site in enumerate(sites)
            if site.hook.kind is HookKind.MULTI_GRAD
        }
        called = list(self._run())
        self.by_others = frozenset(self._only_by_others(called))
        self.calls = tuple(_numbered([*called, *sorted(self.by_others)]))

    def where(self, call: HookCall) -> HookSite:
        """The site of a call: a multi-grad hook is called at the tensor whose gradient completes it."""
        site, counter = self._sites[call.site], self.counters.get(call.site)
        if counter is None or site.node is None:
            return site
        if call.site in self._miscounted:
            return replace(site, node=None, slot=None, reason=counting_reason(self._outlook))
        node, slot = counter.place(call.nth)
        return replace(site, node=node, slot=slot, reason=f"{site.reason}{counter.which(call.nth)}")

    def _run(self) -> Iterator[int]:
        for node in self._outlook.schedule.order:
            yield from self._at(node)
            if self.raised_by is not None:
                return
        yield from sorted(self._somewhere)

    def _only_by_others(self, called: Sequence[int]) -> Iterator[int]:
        """The hooks that nobody calls but a backward that starts inside this one, if it does."""
        outlook = self._outlook
        if outlook.nesting and self.raised_by is None:
            for number in {*range(len(self._sites))} - {*called}:
                node = self._sites[number].node
                if node is not None and is_alive(self._sites[number]) and outlook.is_shared(node):
                    yield number

    def _at(self, node: int) -> Iterator[int]:
        place = self._places.get(node) or Place()
        yield from self._tensor_hooks(place.tensor_hooks)
        if self.raised_by is not None:
            return
        yield from place.retain_grad
        if self._outlook.schedule.runs[node]:
            yield from place.prehooks
        if self._outlook.nesting and self._outlook.nesting[0].id == node:
            yield from sorted(self._recomputed)
            yield from sorted(self._miscounted)
        if self._outlook.runs(node):
            yield from place.post_accumulate
            yield from (number for number in place.post_hooks if not is_held_back(self._outlook, self._sites[number]))

    def _tensor_hooks(self, hooks: Sequence[TensorHook]) -> Iterator[int]:
        for hook in hooks:
            called = True if hook.target is None else self.counters[hook.site].visit(hook.target)
            if called is None:
                self.raised_by = hook.site
                return
            if called and not (hook.site in self._somewhere or hook.site in self._miscounted):
                yield hook.site


def _numbered(sites: Iterable[int]) -> Iterator[HookCall]:
    counts: Counter[int] = Counter()
    for site in sites:
        yield HookCall(site, counts[site])
        counts[site] += 1


def is_miscounted(outlook: Outlook, site: HookSite) -> bool:
    """Whether a backward that starts inside this one may be among those whose gradients a multi-grad hook counts."""
    if site.hook.kind is not HookKind.MULTI_GRAD or site.node is None or not site.hook.active or not outlook.nesting:
        return False
    return any(node is None or outlook.is_shared(node) for node, _ in site.hook.target_slots)


def is_held_back(outlook: Outlook, site: HookSite) -> bool:
    """Whether a full hook keeps silent on its input-side node: it waits for the output side, and nothing is there."""
    return waits_for_output(outlook, site) and not finds_earlier(outlook, site)


def waits_for_output(outlook: Outlook, site: HookSite) -> bool:
    """Whether a full hook on its input-side node comes before the output-side node has run.

    ``BackwardHook._set_user_hook`` (torch/utils/hooks.py) waits for the grad_outputs that the output side leaves. What
    it left in the same call before this one, and nothing took, is still there.
    """
    call = outlook.module_call(site) if site.hook.kind.is_full else None
    if call is None or site.node is None or outlook.sides.get(site.node) != INPUT_SIDE:
        return False
    output = call.output_hook_node
    if output is None or not outlook.runs(output):
        return True
    return outlook.call.after is None and outlook.ranks[output] > outlook.ranks[site.node]


def finds_earlier(outlook: Outlook, site: HookSite) -> bool:
    """Whether an earlier backward, which nobody watched, left grad_outputs that nothing has taken."""
    call = outlook.module_call(site)
    return isinstance(call, UnrecordedCall) and call.has_waiting

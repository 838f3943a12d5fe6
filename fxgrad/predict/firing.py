"""In which order hooks are called: node by node as the engine runs, and at each node by what they are registered on.

At one node (torch/csrc/autograd/engine.cpp, ``evaluate_function`` and ``call_function``): tensor hooks, retain_grad,
prehooks, the node itself (for a leaf the post-accumulate hooks, torch/csrc/autograd/functions/accumulate_grad.cpp),
post-hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import HookKind, HookSite, UnrecordedCall
from fxgrad.predict import multi_grad
from fxgrad.predict.flow import INPUT_SIDE
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.places import Place, TensorHook, places


class Firing:
    """The calls of hooks in one backward.

    ``calls``      numbers of sites, in order; a multi-grad site may come more than once
    ``counters``   by number, what became of each multi-grad hook
    ``raised_by``  number of the site whose hook makes backward raise, which ends it; None: there is none
    """

    def __init__(self, outlook: Outlook, sites: Sequence[HookSite]) -> None:
        self._outlook = outlook
        self._sites = sites
        self._places = places(outlook.graph, sites)
        self._undecided = [number for number, site in enumerate(sites) if site.node is None and site.fires is None]
        self.raised_by: int | None = None
        self.counters = {
            number: multi_grad.Counter(outlook, site.hook)
            for number, site in enumerate(sites)
            if site.hook.kind is HookKind.MULTI_GRAD
        }
        self.calls = tuple(self._run())

    def _run(self) -> Iterator[int]:
        for node in self._outlook.schedule.order:
            yield from self._at(node)
            if self.raised_by is not None:
                return
        for number, counter in self.counters.items():
            hook = self._sites[number].hook
            if hook.more_targets is not None and hook.active and not counter.calls:
                yield number

    def _at(self, node: int) -> Iterator[int]:
        place = self._places.get(node) or Place()
        yield from self._tensor_hooks(place.tensor_hooks)
        if self.raised_by is not None:
            return
        yield from place.retain_grad
        if self._outlook.schedule.runs[node]:
            yield from place.prehooks
        if self._outlook.checkpoint is not None and self._outlook.checkpoint.id == node:
            yield from self._undecided
        if self._outlook.runs(node):
            yield from place.post_accumulate
            yield from (number for number in place.post_hooks if not is_held_back(self._outlook, self._sites[number]))

    def _tensor_hooks(self, hooks: Sequence[TensorHook]) -> Iterator[int]:
        for hook in hooks:
            called = True if hook.target is None else self.counters[hook.site].visit(hook.target)
            if called is None:
                self.raised_by = hook.site
                return
            if called:
                yield hook.site


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

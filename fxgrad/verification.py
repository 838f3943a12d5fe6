"""Compares predictions with what happened. Pure: a graph with predicted sites, and firings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fxgrad.graph import BackwardGraph, Gradient, HookSite
from fxgrad.graph.hook_kinds import HookMoment
from fxgrad.graph.records import Firing, Received
from fxgrad.graph.text import count_noun, escape, format_brief_source, format_hook, format_shape, pluralize
from fxgrad.predict import find_raising_nodes

_NOT_PREDICTED = "no such site was predicted"
_REGISTERED_IN_FORWARD = "it is registered while forward runs, and in a compiled run only hooks from before are counted"

_Key = tuple[int, str | None]
"""A hook, and the module call it belongs to."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One wrong prediction. ``what`` is "fires", "times", "length", "none", "shape", "dtype", "node", "order" or "raises";
    ``predicted`` and ``got`` are both sides in words. ``site`` is None where it is about backward as a whole."""

    site: HookSite | None
    what: str
    predicted: str
    got: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that is not predicted, with the reason: ``what`` is "fires" or names an entry, ``grad_input[1]``."""

    site: HookSite
    what: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """What `fxgrad.verify` found. ``ok`` is True if every prediction is right.

    ``raised`` is PyTorch's message, where backward raised as predicted: what follows it in the program was not run.
    ``compiled``: what ran is what torch.compile has made of the model, and only how often each hook was called is compared.
    """

    graph: BackwardGraph
    differences: tuple[Difference, ...]
    unknown: tuple[Unknown, ...]
    entries: int
    raised: str | None = None
    compiled: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing differs. What is not predicted, and why, is in ``unknown``."""
        return not self.differences

    def __str__(self) -> str:
        return "\n".join(
            [
                self._summary(),
                *self._say_how_it_ran(),
                *([] if self.raised is None else [f"  backward raised, as predicted: {escape(self.raised)}"]),
                *map(_format_difference, self.differences),
                *map(_format_unknown, self.unknown),
            ]
        )

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"

    def _summary(self) -> str:
        sites, entries = len(self.graph.sites), self.entries
        received = f"{entries} {pluralize(entries, 'entry', plural='entries')}"
        what = "how often each hook is called" if self.compiled else received
        return (
            f"{sites} hook {pluralize(sites, 'site')}, {what} compared: {len(self.differences)} wrong, "
            f"{len(self.unknown)} unknown"
        )

    def _say_how_it_ran(self) -> Iterator[str]:
        modules = [module for module in self.graph.modules if module.made_by == "torch.compile"]
        if self.compiled:
            yield "  ran as the program does, with torch.compile; compared with the prediction for a run without it"
        elif modules:
            yield (
                f"  ran without torch.compile ({count_noun(len(modules), 'compiled module')}): compiled=True, or --compiled, "
                "runs the compiled program"
            )


def compare(graph: BackwardGraph, firings: Sequence[Firing], raised: str | None = None) -> Verification:
    """Compare the sites of a predicted graph with the firings of a real backward, and whether that `raised`.

    Compared are: whether each hook fired, how often, on which node, the number of entries, each entry's None-ness,
    shape and dtype, and the order in which the sites fired first; and whether a hook fired that has no such site. Of
    several sites that a hook has at one call, as a multi-grad hook may, each has one firing, in their order.
    """
    seen: dict[_Key, list[Firing]] = {}
    for firing in firings:
        seen.setdefault((firing.hook, firing.call), []).append(firing)
    differences: list[Difference] = []
    unknown: list[Unknown] = []
    came: list[tuple[int, HookSite]] = []
    for key, sites in _group_by_key(graph.sites).items():
        for site, there in zip(sites, _share_firings(sites, seen.pop(key, [])), strict=True):
            differences += _compare_site(site, there)
            unknown += _list_unknown(site)
            came += [(firing.order, site) for firing in there[:1] if firing.order is not None]
    differences += _compare_order(came)
    differences += _list_unpredicted(graph, seen)
    wrongly = list(_compare_end(graph, raised))
    entries = sum(len(site.grad_input or ()) + len(site.grad_output or ()) for site in graph.sites)
    found = (*wrongly, *differences)
    return Verification(graph, found, tuple(unknown), entries, None if wrongly else raised)


def compare_compiled(graph: BackwardGraph, times: Mapping[int, int]) -> Verification:
    """Compare how often a compiled program called each hook, by its id, with the sites of a run without torch.compile.

    A compiled region is one node, so nothing can be said of where a hook was called and of what it got.
    """
    differences: list[Difference] = []
    unknown: list[Unknown] = []
    sites_by_hook: dict[int, list[HookSite]] = {}
    for site in graph.sites:
        sites_by_hook.setdefault(site.hook.id, []).append(site)
    for hook, sites in sites_by_hook.items():
        undecided = [site for site in sites if site.fires is None or (site.fires and site.times is None)]
        if undecided:
            unknown += [Unknown(site, "fires", site.reason) for site in undecided]
        elif hook in times:
            differences += _compare_times(sites, times[hook])
        elif any(site.fires for site in sites):
            unknown.append(Unknown(sites[0], "fires", _REGISTERED_IN_FORWARD))
    return Verification(graph, tuple(differences), tuple(unknown), 0, compiled=True)


def _compare_times(sites: Sequence[HookSite], got: int) -> Iterator[Difference]:
    """Compare the calls of a hook at all of its sites."""
    predicted, hook = sum(site.times or 0 for site in sites), sites[0].hook
    if predicted == got:
        return
    registered = f", registered at {format_brief_source(hook.registered)}" if hook.registered is not None else ""
    what = "fires" if 0 in (predicted, got) else "times"
    in_words = f"{_format_times(got)} in the compiled program{registered}: see FXG303"
    yield Difference(sites[0], what, _format_times(predicted), in_words)


def _compare_end(graph: BackwardGraph, raised: str | None) -> Iterator[Difference]:
    """Compare whether backward raises at a node that can no longer read what it saved.

    After an earlier call on the same graph that is not compared: what that has freed ends this one.
    """
    if graph.info.backward.after is not None:
        return
    certain, possible = find_raising_nodes(graph)
    if raised is None and certain is not None and certain.always_raises:
        yield Difference(None, "raises", f"backward raises at {escape(certain.label)}", "it ends")
    elif raised is not None and certain is None and possible is None:
        yield Difference(None, "raises", "backward ends", f"it raises: {escape(raised)}")


def _compare_site(site: HookSite, seen: Sequence[Firing]) -> Iterator[Difference]:
    if not seen and site.fires and _leaves_no_trace(site):
        return
    if site.fires is not None and site.fires != bool(seen):
        yield Difference(site, "fires", "fires" if site.fires else "does not fire", _format_times(len(seen)))
        return
    if site.times is not None and site.times != len(seen):
        yield Difference(site, "times", _format_times(site.times), _format_times(len(seen)))
    if site.node is not None:  # else it attaches while backward recomputes
        yield from dict.fromkeys([difference for firing in seen for difference in _compare_firing(site, firing)])


def _leaves_no_trace(site: HookSite) -> bool:
    """retain_grad is seen by what it stores, and stores nothing where no gradient comes (torch/csrc/autograd/cpp_hook.cpp)."""
    is_retaining = site.hook.kind.moment is HookMoment.RETAIN_GRAD
    return is_retaining and any(gradient.status != "tensor" for gradient in site.grad_output or ())


def _compare_firing(site: HookSite, firing: Firing) -> Iterator[Difference]:
    if site.node != firing.node:
        yield Difference(site, "node", _format_node(site.node), _format_node(firing.node))
    yield from _compare_entries(site, "grad_input", site.grad_input, firing.grad_input)
    yield from _compare_entries(site, "grad_output", site.grad_output, firing.grad_output)


def _format_node(node: int | None) -> str:
    return "no node of the graph" if node is None else f"node {node}"


def _format_times(count: int) -> str:
    return "never" if count == 0 else "once" if count == 1 else f"{count} times"


def _compare_entries(
    site: HookSite, name: str, predicted: Sequence[Gradient] | None, got: Sequence[Received | None]
) -> Iterator[Difference]:
    if predicted is None or (site.node is None and site.fires is None):
        return  # nothing is said about what a hook gets that may fire at no place of this graph
    if len(predicted) != len(got):
        yield Difference(site, "length", f"{len(predicted)} in {name}", f"{len(got)} in {name}")
        return
    for gradient, received in zip(predicted, got, strict=True):
        yield from _compare_entry(site, f"{name}[{gradient.index}]", gradient, received)


def _compare_entry(site: HookSite, place: str, gradient: Gradient, received: Received | None) -> Iterator[Difference]:
    if gradient.status == "unknown":
        return
    if (gradient.status == "none") != (received is None):
        yield Difference(
            site, "none", f"{place} {_format_predicted(gradient)}", f"{place} {_format_received(received)}"
        )
        return
    if received is None:
        return
    shape, dtype = received
    if gradient.shape is not None and gradient.shape != shape:
        yield Difference(site, "shape", f"{place} {format_shape(gradient.shape)}", f"{place} {format_shape(shape)}")
    if gradient.dtype is not None and gradient.dtype != dtype:
        yield Difference(site, "dtype", f"{place} {gradient.dtype}", f"{place} {dtype}")


def _format_predicted(gradient: Gradient) -> str:
    return "None" if gradient.status == "none" else f"a tensor {format_shape(gradient.shape)}"


def _format_received(received: Received | None) -> str:
    return "None" if received is None else f"a tensor {format_shape(received[0])}"


def _list_unknown(site: HookSite) -> Iterator[Unknown]:
    if site.fires is None:
        yield Unknown(site, "fires", site.reason)
        if site.node is None:
            return
    for name, gradients in (("grad_input", site.grad_input), ("grad_output", site.grad_output)):
        for gradient in gradients or ():
            if gradient.status == "unknown":
                yield Unknown(site, f"{name}[{gradient.index}]", gradient.reason or "")


def _group_by_key(sites: Sequence[HookSite]) -> dict[_Key, list[HookSite]]:
    found: dict[_Key, list[HookSite]] = {}
    for site in sites:
        found.setdefault((site.hook.id, site.call), []).append(site)
    return found


def _share_firings(sites: Sequence[HookSite], firings: Sequence[Firing]) -> list[list[Firing]]:
    """Divide the firings of one hook at one call among its sites there.

    A site that fires takes one on its node, else the next one. What is left goes to a site that may fire, else to the
    last site.
    """
    if len(sites) == 1:
        return [list(firings)]
    left, shares = list(firings), [list[Firing]() for _ in sites]
    for site, share in zip(sites, shares, strict=True):
        there = [firing for firing in left if firing.node == site.node] or left
        if site.fires and there:
            share.append(there[0])
            left.remove(there[0])
    rest = next((share for site, share in zip(sites, shares, strict=True) if site.fires is None), shares[-1])
    rest.extend(left)
    return shares


def _compare_order(came: Sequence[tuple[int, HookSite]]) -> Iterator[Difference]:
    """Compare the order of sites on nodes that fire a known number of times. Others may be called before their turn."""
    first = [site for _, site in sorted(came, key=lambda first: first[0])]
    really = [site for site in first if site.fires and site.times is not None and site.node is not None]
    predicted = sorted(really, key=lambda site: -1 if site.order is None else site.order)
    for rank, (expected, site) in enumerate(zip(predicted, really, strict=True)):
        if expected is not site:
            yield Difference(site, "order", f"{_format_site(expected)} as number {rank}", f"{_format_site(site)}")


def _list_unpredicted(graph: BackwardGraph, left: dict[_Key, list[Firing]]) -> Iterator[Difference]:
    """Firings of a hook at a call for which there is no site, or of a hook that has none."""
    for (hook_id, call), firings in left.items():
        sites = [site for site in graph.sites if site.hook.id == hook_id]
        if any(site.fires is None or (site.fires and site.times is None) for site in sites):
            continue
        site = HookSite(graph.hooks[hook_id], call, firings[0].node, None, (), (), None, None, None, _NOT_PREDICTED)
        yield Difference(site, "fires", "no site there", _format_times(len(firings)))


def _format_site(site: HookSite) -> str:
    place = site.call or (f"node {site.node}" if site.node is not None else "no place")
    return f"{format_hook(site.hook)} at {escape(place)}"


def _format_difference(difference: Difference) -> str:
    site = "backward" if difference.site is None else _format_site(difference.site)
    return f"  wrong {difference.what}: {site}: predicted {difference.predicted}, got {difference.got}"


def _format_unknown(unknown: Unknown) -> str:
    return f"  unknown {unknown.what}: {_format_site(unknown.site)}: {escape(unknown.reason)}"

"""Holds the sites of a predicted graph against the calls of hooks that a real backward made, one property at a time.

Written apart from `fxgrad.observe.execution` and `fxgrad.verification`, so that one mistake cannot hide in both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from fxgrad.graph import BackwardGraph, Gradient, HookKind, HookSite
from fxgrad.predict import find_raising_nodes

PROPERTIES = ("refusal", "site", "fires", "times", "order", "node", "length", "none", "shape", "dtype", "raises")
"""What can be wrong. "refusal": one of fxgrad and PyTorch raises, the other does not; "site": a hook has no site;
"raises": whether backward raises, and at which node."""

SHAPE_OPEN, DTYPE_OPEN = "the shape is left open", "the dtype is left open"
"""Reasons of entries that are Tensors for certain, of which the records do not show everything."""

Described = tuple[tuple[int, ...] | None, str] | None
"""(shape, dtype) of a gradient, None for None."""


def described(gradient: Any) -> Described:
    """What can be compared of a gradient after it is gone."""
    if gradient is None:
        return None
    strided_nested = gradient.is_nested and gradient.layout is torch.strided
    return None if strided_nested else _sizes(gradient.shape), str(gradient.dtype).removeprefix("torch.")


def _sizes(shape: Iterable[Any]) -> tuple[Any, ...]:
    """The sizes; of a jagged tensor one has a name, another one for each tensor that is made."""
    return tuple(size if type(size) is int else "jagged" for size in shape)


class Called(NamedTuple):
    """One call of a hook: which one, on which autograd node, and what it got.

    ``node`` is the live autograd node; a tuple that this kind of hook does not get is None. ``module`` is the module
    that a module hook is called with.
    """

    hook: Hashable
    grad_input: tuple[Described, ...] | None
    grad_output: tuple[Described, ...] | None
    node: Any = None
    module: Any = None


class Retained(NamedTuple):
    """What ``retain_grad`` left on a tensor, and the place in the graph that the tensor's gradient goes to."""

    node: int | None
    slot: int
    grad: Described


@dataclass(frozen=True)
class Difference:
    """A prediction that did not hold; ``what`` is one of PROPERTIES."""

    what: str
    text: str


@dataclass
class Comparison:
    """How a prediction held. ``entries`` counts the grad_input and grad_output entries, ``unknown`` reasons."""

    differences: list[Difference] = field(default_factory=list)
    sites: int = 0
    entries: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> list[str]:
        """The differences as sentences."""
        return [f"{difference.what}: {difference.text}" for difference in self.differences]

    @property
    def unknown(self) -> int:
        """How many predictions were left open."""
        return self.reasons.total()

    def add(self, what: str, text: str) -> None:
        """Note one difference."""
        assert what in PROPERTIES
        self.differences.append(Difference(what, text))


@dataclass(frozen=True)
class End:
    """How a backward ended: the live node that was executed last, and PyTorch's message where it raised there."""

    node: Any = None
    raised: str | None = None


@dataclass(frozen=True)
class Reality:
    """What one backward did, and how to recognize in it what the records speak of.

    ``calls``       in the order in which they came
    ``ids``         the id in the records of each live node; None: nodes are not compared
    ``paths``       the path of each module; None where hooks have names of their own at each module
    ``name_of``     what `Called.hook` says of the hook of a site
    ``retained``    what each call of retain_grad on a tensor that is no leaf left
    ``registered``  the names of all hooks that were registered: each must have a site
    ``others``      whether there are other hooks, of which nothing was noted: their sites are not compared
    ``end``         how backward ended; None: that is not compared
    ``cut``         how many of the calls are compared, where the next is no longer foreseen, as a hook raised or returned
                    None for a gradient; None: all, and that there are no more
    """

    calls: Sequence[Called]
    ids: Mapping[Any, int] | None = None
    paths: Mapping[Any, str] | None = None
    name_of: Callable[[HookSite], Hashable] = lambda site: site.hook.function
    retained: Sequence[Retained] = ()
    registered: Collection[Hashable] = ()
    others: bool = False
    end: End | None = None
    cut: int | None = None


Key = tuple[Hashable, str | None]
"""A hook, and the module that it is called for where one hook is on several."""

_NUMBER_OF_STRANGER = re.compile(r"^(<.+) \d+(?=>$)")
"""The records number modules outside of the model that have one type, as in ``<Linear 2>``; what is called does not tell
which is which."""


def compare_with(graph: BackwardGraph, reality: Reality) -> Comparison:
    """Compare whether each hook was called, how often, on which node, in which order, and each entry that it got."""
    return _Held(graph, reality).comparison


class _Held:
    """One comparison in the making."""

    def __init__(self, graph: BackwardGraph, reality: Reality) -> None:
        self.graph, self.reality = graph, reality
        self.comparison = Comparison(sites=len(graph.sites))
        self.sites: dict[Key, list[HookSite]] = {}
        self.calls: dict[Key, list[Called]] = {}
        for site in graph.sites:
            if self._is_noted(site):
                self.sites.setdefault(self._site_key(site), []).append(site)
        for called in reality.calls:
            self.calls.setdefault(self._call_key(called), []).append(called)
        self._compare()

    def _compare(self) -> None:
        self._every_hook_has_a_site()
        if self.reality.cut is not None:
            self._compare_beginning(self.reality.cut)
            return
        self._compare_end()
        sound = [key for key in {**self.sites, **self.calls} if self._compare_count(key)]
        for key in sound:
            for site, called in self._paired(key):
                self._compare_entries(site, called)
        self._compare_order(set(sound))
        _compare_retained(self.graph, self.reality, self.comparison)

    # Whose calls

    def _site_key(self, site: HookSite) -> Key:
        name = self.reality.name_of(site)
        if not site.hook.kind.is_module or self.reality.paths is None:
            return name, None
        path = site.hook.owner if site.call is None else self.graph.calls_by_id[site.call].path
        return name, _NUMBER_OF_STRANGER.sub(r"\1", path)

    def _call_key(self, called: Called) -> Key:
        known = None if called.module is None or self.reality.paths is None else self.reality.paths[called.module]
        return called.hook, known

    def _node(self, called: Called) -> int | None:
        return None if self.reality.ids is None else self.reality.ids.get(called.node)

    def _site_node(self, site: HookSite) -> int | None:
        return None if self.reality.ids is None else site.node

    def _text(self, site: HookSite) -> str:
        label = None if site.node is None else self.graph.nodes[site.node].label
        return f"{self.reality.name_of(site)} ({site.hook.kind.value}) at {label} call {site.call}"

    # Fires, times

    def _every_hook_has_a_site(self) -> None:
        known = {self.reality.name_of(site) for site in self.graph.sites}
        for name in self.reality.registered:
            if name not in known:
                self.comparison.add("site", f"{name} was registered, but has no site")

    def _compare_count(self, key: Key) -> bool:
        """Whether the calls of a hook can be compared further: as many as predicted, none of them undecided."""
        sites, real = self.sites.get(key, []), len(self.calls.get(key, []))
        undecided = [site.reason for site in sites if site.fires is None]
        self.comparison.reasons.update(undecided)
        if undecided:
            return False
        firing = [site for site in sites if site.fires]
        if bool(firing) != bool(real):
            reasons = [f"{self._text(site)}: {site.reason}" for site in sites]
            self.comparison.add("fires", f"{key} was called {real} times, but sites say {reasons}")
            return False
        times = [site.times for site in firing]
        open_times = [site.reason for site in firing if site.times is None]
        self.comparison.reasons.update(open_times)
        if (open_times and real < len(firing)) or (not open_times and real != sum(filter(None, times))):
            self.comparison.add("times", f"{key} was called {real} times, but predicted {times}")
            return False
        return True

    # Where backward ends

    def _compare_end(self) -> None:
        """Compare whether backward raises at a node that can no longer read what it saved, or never can, and at which."""
        end = self.reality.end
        if end is None or self.graph.info.backward.after is not None:
            return  # what the earlier call has freed ends this one, at a node that is not told
        certain, possible = find_raising_nodes(self.graph)
        if end.raised is None:
            if certain is not None:
                self.comparison.add("raises", f"backward raises at {certain.label}, but it ends")
        elif certain is None and possible is None:
            self.comparison.add("raises", f"backward ends, but it raises: {end.raised}")
        elif self.reality.ids is not None and end.node is not None:
            at = self.reality.ids.get(end.node)
            if at not in {node.id for node in (certain, possible) if node is not None}:
                labels = [None if node is None else node.label for node in (certain, possible)]
                self.comparison.add("raises", f"backward raises at one of {labels}, but it is {end.node.name()}")

    def _compare_beginning(self, count: int) -> None:
        """Compare the first calls only: they must be those that are predicted to come first."""
        undecided = {key for key, sites in self.sites.items() if any(_is_open(site) for site in sites)}
        self.comparison.reasons.update(
            site.reason for key in undecided for site in self.sites[key] if site.fires is None
        )
        predicted = [site for sites in self.sites.values() for site in sites if site.fires]
        predicted = [site for site in sorted(predicted, key=_rank) if self._site_key(site) not in undecided]
        real = [called for called in self.reality.calls[:count] if self._call_key(called) not in undecided]
        told = [(self._site_key(site), self._site_node(site)) for site in predicted][: len(real)]
        came = [(self._call_key(called), self._node(called)) for called in real]
        if told != came:
            pairs = enumerate(zip(told, came, strict=False))
            at = next((rank for rank, (a, b) in pairs if a != b), len(told))
            self.comparison.add("order", f"call {at} of {count} is {came[at:][:3]}, but predicted {told[at:][:3]}")
            return
        for site, called in zip(predicted, real, strict=False):
            self._compare_entries(site, called)

    # Nodes

    def _paired(self, key: Key) -> Iterator[tuple[HookSite, Called]]:
        """Each site with its calls: those on its node, as far as there are any left, else the next ones."""
        left = list(self.calls.get(key, []))
        later = []
        for site in self._firing(key):
            there = [called for called in left if self._node(called) == self._site_node(site)]
            if not there:
                later.append(site)
                continue
            for called in there[: site.times]:
                left.remove(called)
                yield site, called
        for site in later:
            if left:
                called = left.pop(0)
                self._wrong_node(site, called)
                yield site, called

    def _wrong_node(self, site: HookSite, called: Called) -> None:
        number = self._node(called)
        real = called.node.name() if hasattr(called.node, "name") else called.node
        label = real if number is None else self.graph.nodes[number].label
        self.comparison.add("node", f"{self._text(site)}: called on {label}")

    def _firing(self, key: Key) -> list[HookSite]:
        return sorted((site for site in self.sites.get(key, []) if site.fires), key=_rank)

    # Order

    def _compare_order(self, sound: set[Key]) -> None:
        """Hooks by their calls at each node; where it is left open how often a hook is called, so is when it is first."""
        sites = sorted((site for site in self.graph.sites if site.fires and self._is_in(site, sound)), key=_rank)
        left_open = {self._site_key(site) for site in sites if site.times is None}
        told = [(self._site_key(site), self._site_node(site)) for site in sites]
        real = [(self._call_key(called), self._node(called)) for called in self.reality.calls]
        told = [place for place in told if place[0] not in left_open]
        real = [place for place in real if place[0] in sound - left_open]
        ranks = [site.order for site in self.graph.sites if site.order is not None]
        if len(set(ranks)) != len(ranks):
            self.comparison.add("order", f"two sites have one rank: {ranks}")
        if told != real and Counter(told) == Counter(real):  # other nodes are told of by now
            first = next(rank for rank, (a, b) in enumerate(zip(told, real, strict=True)) if a != b)
            self.comparison.add("order", f"call {first} is {real[first:]}, but predicted {told[first:]}")

    def _is_in(self, site: HookSite, sound: set[Key]) -> bool:
        return self._is_noted(site) and self._site_key(site) in sound

    def _is_noted(self, site: HookSite) -> bool:
        if site.hook.kind is HookKind.RETAIN_GRAD:
            return False
        return not self.reality.others or self.reality.name_of(site) in self.reality.registered

    # Entries

    def _compare_entries(self, site: HookSite, called: Called) -> None:
        pairs = (
            ("grad_input", site.grad_input, called.grad_input or ()),
            ("grad_output", site.grad_output, called.grad_output or ()),
        )
        for name, predicted, real in pairs:
            if predicted is None:  # how many entries there are is unknown
                continue
            if len(predicted) != len(real):
                self.comparison.add("length", f"{self._text(site)}: {len(real)} in {name}, predicted {len(predicted)}")
                continue
            for gradient, received in zip(predicted, real, strict=True):
                place = f"{self._text(site)}: {name}[{gradient.index}] {gradient.argument}"
                compare_entry(self.comparison, place, gradient, received)


def _is_open(site: HookSite) -> bool:
    """Whether only backward decides whether or how often a hook is called there."""
    return site.fires is None or (site.fires and site.times != 1)


def _rank(site: HookSite) -> int:
    return -1 if site.order is None else site.order


def compare_entry(comparison: Comparison, place: str, gradient: Gradient, received: Described) -> None:
    """Compare one entry: None or Tensor, shape, dtype. What is left open of a Tensor counts as unknown, too."""
    comparison.entries += 1
    if gradient.status == "unknown":
        comparison.reasons[gradient.reason or "no reason is given"] += 1
    elif (gradient.status == "none") != (received is None):
        comparison.add("none", f"{place}: predicted {gradient.status} ({gradient.reason}), got {received}")
        return
    if received is None:
        return
    shape, dtype = received
    if gradient.shape is None and gradient.status == "tensor" and shape is not None:
        comparison.reasons[SHAPE_OPEN] += 1
    elif gradient.shape is not None and _sizes(gradient.shape) != shape:
        comparison.add("shape", f"{place}: predicted {gradient.shape}, got {shape}")
    if gradient.dtype is None and gradient.status == "tensor":
        comparison.reasons[DTYPE_OPEN] += 1
    elif gradient.dtype is not None and gradient.dtype != dtype:
        comparison.add("dtype", f"{place}: predicted {gradient.dtype}, got {dtype}")


def _compare_retained(graph: BackwardGraph, reality: Reality, comparison: Comparison) -> None:
    """retain_grad runs no Python: what it did is seen in ``.grad`` of the tensor, by the tensor's place."""
    sites = {}
    for site in graph.sites:
        if site.hook.kind is HookKind.RETAIN_GRAD and site.node is not None:
            sites[site.node, site.slot] = site
    left_open = [site for site in graph.sites if site.hook.kind is HookKind.RETAIN_GRAD and site.node is None]
    left_open = [site.reason for site in left_open if site.fires is None]
    for node, slot, grad in reality.retained:
        site = sites.get((node, slot)) if node is not None else None
        if site is None:
            if node is None and left_open:
                comparison.reasons[left_open[0]] += 1
            elif grad is not None:
                comparison.add("fires", f"retain_grad at {(node, slot)} has no site, but .grad is {grad}")
        elif site.fires is None:
            comparison.reasons[site.reason] += 1
        elif site.fires:
            compare_entry(comparison, f"retain_grad at {(node, slot)}", site.grad_output[0], grad)
        elif grad is not None:
            comparison.add("fires", f"retain_grad at {(node, slot)}: {site.reason}, but .grad is {grad}")
    firing = {(site.node, site.slot) for site in sites.values() if site.fires}
    known = {(node, slot) for node, slot, _ in reality.retained}
    for place in firing - known if reality.retained and not reality.others else ():
        comparison.add("fires", f"retain_grad is predicted at {place}, where no tensor retains its gradient")

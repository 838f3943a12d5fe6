"""Sites that say the same, told once: a recurrent cell has one for each step, and a reader wants the differences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fxgrad.graph import Gradient, HookSite
from fxgrad.graph.hook_sites import HookSites

_MOST_DIFFERENCES = 3


class Fold(NamedTuple):
    """Sites with the same content but for numbers in names. The first one is shown."""

    sites: tuple[HookSite, ...]

    @property
    def shown(self) -> HookSite:
        """The site that stands for all."""
        return self.sites[0]


class Difference(NamedTuple):
    """An entry that is not as in another site: ``side`` is "grad_output" or "grad_input"."""

    side: str
    gradient: Gradient


def folds(subject: HookSites) -> tuple[Fold, ...]:
    """The subject's sites, those of the same content together, in the order of the first of each."""
    found: dict[object, list[HookSite]] = {}
    for site in subject.sites:
        found.setdefault(_content(subject, site), []).append(site)
    return tuple(Fold(tuple(sites)) for sites in found.values())


def differences(subject: HookSites, base: HookSite, other: HookSite) -> tuple[Difference, ...] | None:
    """The entries of ``other`` that are not as in ``base``; None where there is more to tell than a few entries."""
    if _frame(subject, base) != _frame(subject, other):
        return None
    found = (
        *_differing("grad_output", base.grad_output, other.grad_output),
        *_differing("grad_input", base.grad_input, other.grad_input),
    )
    return found if len(found) <= _MOST_DIFFERENCES else None


def _differing(side: str, base: Sequence[Gradient], other: Sequence[Gradient]) -> Iterator[Difference]:
    for old, new in zip(base, other, strict=True):
        if _entry(old) != _entry(new):
            yield Difference(side, new)


def _content(subject: HookSites, site: HookSite) -> tuple[object, ...]:
    entries = tuple(_entry(gradient) for gradient in (*site.grad_output, *site.grad_input))
    return (*_frame(subject, site), entries)


def _frame(subject: HookSites, site: HookSite) -> tuple[object, ...]:
    node = subject.graph.nodes[site.node].name if site.node is not None else None
    return (
        node,
        site.call is None,
        site.fires,
        site.times,
        site.slot,
        len(site.grad_output),
        len(site.grad_input),
        _without_numbers(site.reason),
    )


def _entry(gradient: Gradient) -> tuple[object, ...]:
    texts = (_without_numbers(gradient.expression), _without_numbers(gradient.reason))
    return (gradient.argument, gradient.status, gradient.shape, gradient.dtype, *texts)


def _without_numbers(text: str | None) -> str | None:
    return None if text is None else re.sub(r"\d+", "0", text)

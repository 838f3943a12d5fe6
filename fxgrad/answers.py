"""What a Trace answers when it is asked, and a probe: texts with the findings in them, and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fxgrad.graph import BackwardGraph, Explanation, HookSite


@dataclass(frozen=True)
class Shown:
    """A text with the findings in it. ``str()`` is plain; on a terminal rich shows it, in a notebook as HTML."""

    graph: BackwardGraph
    findings: tuple[Explanation, ...]
    text: str
    rich: Callable[[], Any] = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def __rich__(self) -> Any:
        return self.rich()

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.text)}</pre>"

    def to_json(self) -> str:
        """The findings with their sites, as JSON text: a list of the Explanation records' fields."""
        from fxgrad.exchange.saved import records_to_json

        return records_to_json(self.findings)


class Explanations(Shown):
    """What `Trace.explain` answers: each hook, its node, what it gets there and why, and the rules' findings."""


class Report(Shown):
    """What `Trace.report` answers: everything that is known of a graph, as one text."""


@dataclass(frozen=True)
class Order(Shown):
    """What `Trace.order` answers: every call of a hook, in order, across all nodes.

    ``calls``  the sites as their hooks are called; one whose hook is called twice is there twice. Where
               ``site.fires`` is None the hook is called there, if at all
    """

    calls: tuple[HookSite, ...]

    def to_json(self) -> str:
        """The calls, as JSON text: a list of the HookSite records' fields."""
        from fxgrad.exchange.saved import records_to_json

        return records_to_json(self.calls)


@dataclass(frozen=True)
class Probe:
    """What `fxgrad.probe` answers: what a hook would get, had it been registered before forward, and what it would change.

    ``sites``    the sites that the hook would have, one a call, in firing order
    ``moved``    the sites of other hooks that it would change, each as it is and as it would be
    ``zeros``    names of the leaves that would get a gradient of zeros, where they get None without the hook
    ``refused``  what PyTorch raises, when the hook is registered or in forward; then there are no sites. None where it
                 raises nothing
    ``explanations``  the hook in words, with what the rules say; its ``graph`` is the one with the hook, or where that is
                 refused the one without
    """

    sites: tuple[HookSite, ...]
    moved: tuple[tuple[HookSite, HookSite], ...]
    zeros: tuple[str, ...]
    refused: str | None
    explanations: Explanations = field(repr=False)

    def __str__(self) -> str:
        return str(self.explanations)

    def _repr_html_(self) -> str:
        return self.explanations._repr_html_()

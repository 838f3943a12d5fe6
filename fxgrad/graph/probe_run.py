"""What a probe observes: one forward without a module hook and with it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from fxgrad.graph.backward_graph import BackwardGraph
from fxgrad.graph.records import Hook, Record


class ProbeRun(Record, frozen=True, gc=True):
    """The graphs of one forward that ran without a module hook and with it.

    ``hook``     the added hook, as it is in ``after``
    ``before``   the graph without it
    ``after``    the graph with it; None where PyTorch refuses the hook
    ``refused``  what PyTorch raised, in registering or in forward; None where it raised nothing
    """

    hook: Hook
    before: BackwardGraph
    after: BackwardGraph | None
    refused: str | None = None

    def with_graphs(self, change: Callable[[BackwardGraph], BackwardGraph]) -> ProbeRun:
        """The same run, with `change` of each graph in its place."""
        after = None if self.after is None else change(self.after)
        return structs.replace(self, before=change(self.before), after=after)

"""Which place of the graph each tensor is at, while BackwardHookFunctions replace tensors by others."""

from __future__ import annotations

from collections.abc import Callable, Container

from msgspec.structs import replace

from fxgrad.graph import Edge
from fxgrad.probe.outside import Place


class Whereabouts:
    """Where the tensors are that the code which runs now can see, by the place at which they are without the hook.

    A replacement is seen in the call that it was made in. Outside of that, a tensor that is older than the call is
    where it was, unless the call returned the one that replaced it.
    """

    def __init__(self) -> None:
        self._now: dict[Place, Place] = {}
        self._changes: list[list[tuple[Place, Place | None]]] = [[]]

    def get(self, place: Place) -> Place | None:
        """The place where a tensor is that has been replaced; None for one that has not."""
        return self._now.get(place)

    def of(self, place: Place) -> Place:
        """The place where a tensor is."""
        return self._now.get(place, place)

    def of_edges(self, edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
        """The edges that lead to the same tensors now."""
        if not self._now:
            return edges
        places = [None if edge.next_node is None else self.get((edge.next_node, edge.input_nr)) for edge in edges]
        if not any(places):
            return edges
        both = zip(edges, places, strict=True)
        return tuple(
            [edge if place is None else replace(edge, next_node=place[0], input_nr=place[1]) for edge, place in both]
        )

    def move(self, place: Place, new: Place) -> None:
        """Replace a tensor, as far as the call that runs now can see."""
        self._changes[-1].append((place, self._now.get(place)))
        self._now[place] = new

    def enter(self) -> None:
        """A call begins."""
        self._changes.append([])

    def leave(self, *, returned: Container[Place | None], is_new: Callable[[Place], bool]) -> None:
        """The call ends that began last; `is_new` says whether it had made a tensor itself."""
        kept = []
        for place, before in reversed(self._changes.pop()):
            if place in returned:
                kept.append((place, before))
            elif not is_new(place):
                self._put_back(place, before)
        self._changes[-1] += reversed(kept)

    def _put_back(self, place: Place, before: Place | None) -> None:
        if before is None:
            self._now.pop(place, None)
        else:
            self._now[place] = before

"""Sequence numbers: where those of new nodes fall, and what that does to the windows of fx nodes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from msgspec.structs import replace

from fxgrad.graph import FxNode

INPUT, OUTPUT, LOOK = "input", "output", "look"


class Insertion(NamedTuple):
    """A node that was made in between: before the node that had this sequence number.

    ``side`` says why ``call`` made it: on its inputs, on its outputs, or by looking at a tensor's grad_fn.
    """

    number: int
    call: str
    side: str


class Insertions:
    """The nodes that were made in between, in the order in which they were made."""

    def __init__(self) -> None:
        self._all: list[Insertion] = []
        self._numbers: list[int] = []

    def add(self, number: int, call: str, side: str) -> int:
        """The sequence number of a node that is made before the one that had this number."""
        self._all.append(Insertion(number, call, side))
        self._numbers.append(number)
        return number + len(self._all) - 1

    def shifted(self, number: int) -> int:
        """What has become of the number that is next, once all that happened before it is known."""
        return number + len(self._all)

    def shifted_node(self, number: int) -> int:
        """What has become of the number of a node, at the end."""
        return number + bisect_right(self._numbers, number)

    def shifted_windows(self, forward: Iterable[FxNode]) -> Iterator[FxNode]:
        """The fx nodes with their windows in the new numbers, given in the order in which they ran."""
        entered: set[str] = set()
        for fx_node in forward:
            entered.update(fx_node.modules)
            if fx_node.sequence_window is None or not self._all:
                yield fx_node
                continue
            start, end = fx_node.sequence_window
            before = bisect_left(self._numbers, start) + sum(
                _was_before(insertion, fx_node, entered) for insertion in self._at(start)
            )
            inside = max(before, bisect_left(self._numbers, end))
            yield replace(fx_node, sequence_window=(start + before, end + inside))

    def _at(self, number: int) -> Sequence[Insertion]:
        return self._all[bisect_left(self._numbers, number) : bisect_right(self._numbers, number)]


def _was_before(insertion: Insertion, fx_node: FxNode, entered: Set[str]) -> bool:
    """Whether a node was made before an fx node that began at the same sequence number.

    `entered` are the calls in which fx nodes up to this one ran: one that this fx node is not in has ended.
    """
    assert fx_node.sequence_window is not None
    if insertion.call in fx_node.modules:
        return insertion.side == INPUT
    start, end = fx_node.sequence_window
    return start < end or insertion.call in entered

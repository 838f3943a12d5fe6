"""Boxes and arrows: everything that a picture shows, before any notation for it.

DOT is one notation (`fxgrad.render.dot`). All text is one printable line each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.graph import HookKind
from fxgrad.render.theme import Flow, Look


class Line(NamedTuple):
    """One line of a box; ``hook`` is the kind of the hook that it names."""

    text: str
    bold: bool = False
    hook: HookKind | None = None


class Box(NamedTuple):
    """One box: ``cluster`` is the key of the cluster that it is drawn in, ``tooltip`` is shown line by line."""

    key: str
    look: Look
    lines: tuple[Line, ...]
    tooltip: tuple[str, ...]
    cluster: str | None

    @property
    def hook_kinds(self) -> tuple[HookKind, ...]:
        """The kinds of the hooks named in it, each once."""
        return tuple(dict.fromkeys(line.hook for line in self.lines if line.hook is not None))


class Arrow(NamedTuple):
    """One arrow between the boxes of these keys."""

    tail: str
    head: str
    lines: tuple[str, ...]
    tooltip: tuple[str, ...]
    flow: Flow


class Cluster(NamedTuple):
    """A frame around boxes: ``parent`` is the key of the frame around it, ``level`` how many there are around it."""

    key: str
    parent: str | None
    level: int
    title: str
    notes: tuple[str, ...]
    tooltip: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """What is drawn; each cluster stands before those in it."""

    headline: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    clusters: tuple[Cluster, ...]

"""What a picture is made of: boxes, arrows and frames, before any notation for them. All text is one printable line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.graph import HookKind
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.theme import Flow, Look


class Line(NamedTuple):
    """One line of a box; ``hook`` is the kind of the hook that it names."""

    text: str
    bold: bool = False
    hook: HookKind | None = None


def _list_kinds(lines: Iterable[Line]) -> tuple[HookKind, ...]:
    return tuple(dict.fromkeys(line.hook for line in lines if line.hook is not None))


class Identity(NamedTuple):
    """What a box or a frame stands for: nothing here is cut or escaped.

    ``kind``    "root", "node", "leaf", "module" (one call, or several), "dead end", "call" (a function call of the forward),
                "argument", "attribute" or "result"
    ``label``   the node's label, the variable's name, the module call's id or the fx node's name
    ``module``  path of the module that it is in, or is; None outside of every module
    ``source``  file of the user's line that made it, and ``line``; None where that is not known
    """

    kind: str
    label: str
    module: str | None = None
    source: str | None = None
    line: int | None = None


NOTHING = Identity("frame", "")
"""Of a frame that stands for no part of a model."""


class Remark(NamedTuple):
    """What a rule says there: its code and its headline."""

    code: str
    headline: str


class Box(NamedTuple):
    """One box: ``cluster`` is the key of the cluster that it is drawn in, ``tooltip`` is shown line by line.

    ``times`` is how many equal things it stands for, ``findings`` are what rules say of them.
    """

    key: str
    look: Look
    lines: tuple[Line, ...]
    tooltip: tuple[str, ...]
    cluster: str | None
    identity: Identity = NOTHING
    times: int = 1
    findings: tuple[Remark, ...] = ()

    @property
    def hook_kinds(self) -> tuple[HookKind, ...]:
        """The kinds of the hooks named in it, each once."""
        return _list_kinds(self.lines)


class Arrow(NamedTuple):
    """One arrow between the boxes of these keys; an ``upward`` one has its head above its tail.

    ``gradients`` is how many it stands for. A ``loop`` leads on to the next of the equal ones that its boxes, or the frame
    around them, stand for: back up, or from a box to itself.
    """

    tail: str
    head: str
    lines: tuple[str, ...]
    tooltip: tuple[str, ...]
    flow: Flow
    upward: bool = False
    gradients: int = 1
    loop: bool = False


class Cluster(NamedTuple):
    """A frame around boxes: ``parent`` is the key of the frame around it, ``level`` how many there are around it.

    ``hooks`` are lines that name the hooks on what the frame stands for. ``times`` is how many equal things it stands for,
    of which it shows one; ``findings`` are what rules say of them.
    """

    key: str
    parent: str | None
    level: int
    title: str
    notes: tuple[str, ...]
    tooltip: tuple[str, ...]
    hooks: tuple[Line, ...] = ()
    identity: Identity = NOTHING
    times: int = 1
    findings: tuple[Remark, ...] = ()

    @property
    def hook_kinds(self) -> tuple[HookKind, ...]:
        """The kinds of the hooks named at it, each once."""
        return _list_kinds(self.hooks)


@dataclass(frozen=True)
class Picture:
    """What is drawn; each cluster stands before those in it."""

    headline: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    clusters: tuple[Cluster, ...]


# The legend


LOOKS = (
    theme.ROOT,
    *theme.NODE_LOOKS.values(),
    theme.COLLAPSED,
    theme.STUB,
    theme.NO_GRADIENT,
    theme.LOST,
    *theme.FORWARD_LOOKS,
)


class Entry(NamedTuple):
    """A sample and what it means: a box, filled in a hook kind's colour or not, or a line."""

    meaning: str
    look: Look
    hook: HookKind | None = None
    flow: Flow | None = None


def list_legend(picture: Picture) -> Iterator[Entry]:
    """Of everything that a picture can show, what this one does: boxes, then hooks, then lines."""
    looks = {box.look for box in picture.boxes}
    yield from (Entry(look.meaning, look) for look in LOOKS if look in looks)
    hooked: tuple[Box | Cluster, ...] = (*picture.boxes, *picture.clusters)
    hooks = {hook for each in hooked for hook in each.hook_kinds}
    yield from (Entry(f"carries a hook: {kind.value}", theme.HOOKED, hook=kind) for kind in HookKind if kind in hooks)
    if any(len(each.hook_kinds) > 1 for each in hooked):
        yield Entry("carries hooks of several kinds: one coloured line each", theme.HOOKED)
    flows = {arrow.flow for arrow in picture.arrows}
    yield from (Entry(flow.meaning, theme.PLAIN, flow=flow) for flow in Flow if flow in flows)

"""The legend: one sample of each look that occurs in a picture, with what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fxgrad.graph import HookKind
from fxgrad.render import theme
from fxgrad.render.drawing.shapes import Picture
from fxgrad.render.theme import Flow, Look

LOOKS = (
    theme.ROOT,
    *theme.NODE_LOOKS.values(),
    theme.COLLAPSED,
    theme.STUB,
    theme.NO_GRADIENT,
)


class Entry(NamedTuple):
    """A sample and what it means: a box, filled in a hook kind's colour or not, or a line."""

    meaning: str
    look: Look
    hook: HookKind | None = None
    flow: Flow | None = None


def entries(picture: Picture) -> Iterator[Entry]:
    """Of everything that a picture can show, what this one does: boxes, then hooks, then lines."""
    looks = {box.look for box in picture.boxes}
    yield from (Entry(look.meaning, look) for look in LOOKS if look in looks)
    hooks = {hook for box in picture.boxes for hook in box.hook_kinds}
    yield from (Entry(f"carries a hook: {kind.value}", theme.HOOKED, hook=kind) for kind in HookKind if kind in hooks)
    if any(len(box.hook_kinds) > 1 for box in picture.boxes):
        yield Entry("carries hooks of several kinds: one coloured line each", theme.HOOKED)
    flows = {arrow.flow for arrow in picture.arrows}
    yield from (Entry(theme.FLOW_MEANINGS[flow], theme.PLAIN, flow=flow) for flow in Flow if flow in flows)

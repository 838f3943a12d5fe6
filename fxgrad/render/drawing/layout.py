"""From a picture to a file: dot finds the places of everything in it, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape
from fxgrad.render.drawing.blocks import make_title, measure_box, measure_label
from fxgrad.render.drawing.columns import arrange, cut_pane
from fxgrad.render.drawing.dot import write_dot
from fxgrad.render.drawing.engine import LayoutTooSlow, run_engine
from fxgrad.render.drawing.frames import Placement, lay_out
from fxgrad.render.drawing.paint import paint
from fxgrad.render.drawing.pane_dot import read_layouts, read_plan, write_pane
from fxgrad.render.drawing.panes import Pane, Plan
from fxgrad.render.drawing.svg import write_svg
from fxgrad.render.drawing.xdot import write_xdot
from fxgrad.render.files import FORMATS, name_formats
from fxgrad.render.pictures.parts import Picture

TIMEOUT = 10.0


def draw_picture(
    picture: Picture, format: str, *, timeout: float | None = TIMEOUT, link_base: str | None = None
) -> bytes:
    """Draw a picture in a format of `fxgrad.render.files.FORMATS`; ``"dot"`` is its DOT, in UTF-8, without a layout.

    With a ``link_base``, an SVG links each box to its line of code below that address.

    Raises `UsageError` for another format, `LayoutTooSlow` where the layout takes more than ``timeout`` seconds,
    `OutputError` where the engine fails.
    """
    if format not in FORMATS:
        raise UsageError(f'format "{escape(format)}"', name_formats(""), '"svg"')
    if format == "dot":
        return write_dot(picture).encode()
    painting = paint(picture, place_picture(picture, timeout=timeout))
    if format == "svg":
        return write_svg(painting, link_base=link_base).encode()
    return run_engine([write_xdot(painting)], format, prog="nop2")


def say_closed(picture: Picture, why: LayoutTooSlow) -> Picture:
    """A picture whose headline says that it is drawn in the place of one that would have taken too long."""
    line = f"Closed further than asked for: {why.given}; a longer timeout (timeout, --timeout) draws more"
    return replace(picture, headline=(*picture.headline, line))


def place_picture(picture: Picture, *, timeout: float | None = TIMEOUT) -> Placement:
    """Find a place for everything in a picture.

    Raises `LayoutTooSlow` where that takes more than ``timeout`` seconds, `OutputError` where the engine fails.
    """
    end = None if timeout is None else time.monotonic() + timeout
    known: dict[Pane, Plan] = {}

    def solve(panes: Sequence[Pane]) -> Sequence[Plan]:
        cuts = [cut_pane(pane) for pane in panes]
        parts = [part for pane, cut in zip(panes, cuts, strict=True) for part in (cut.parts if cut else (pane,))]
        new = [part for part in dict.fromkeys(parts) if part not in known]
        known.update(zip(new, _run_dot(new, end), strict=True))
        return [
            arrange(pane, cut, [known[part] for part in cut.parts]) if cut else known[pane]
            for pane, cut in zip(panes, cuts, strict=True)
        ]

    return lay_out(
        picture,
        box_sizes={box.key: measure_box(box) for box in picture.boxes},
        title_sizes={cluster.key: _round_up(make_title(cluster)[1:]) for cluster in picture.clusters},
        measure_label=measure_label,
        solve=solve,
    )


def _round_up(size: Sequence[float]) -> tuple[int, int]:
    return (int(size[0]) + 1, int(size[1]) + 1)


def _run_dot(panes: Sequence[Pane], end: float | None) -> Iterator[Plan]:
    if not panes:
        return
    left = None if end is None else max(0.0, end - time.monotonic())
    made = run_engine([write_pane(pane) for pane in panes], "json0", timeout=left).decode()
    for pane, layout in zip(panes, read_layouts(made), strict=True):
        yield read_plan(pane, layout)

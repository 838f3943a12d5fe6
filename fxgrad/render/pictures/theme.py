"""Every colour, shape and legend sentence of the picture.

The strong colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell
apart; a global hook has a shade of its module hook's colour. All text stands on a fill from here, never on the page,
and every line holds on a white page as on a dark one: tests/unit/render/test_theme.py computes both.
"""

from __future__ import annotations

import colorsys
import enum
from typing import NamedTuple

from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.records import NodeKind

FONT = "sans-serif"
BLACK = "#000000"
WHITE = "#FFFFFF"
GREY = "#767676"


class Look(NamedTuple):
    """How a box looks, and what the legend says of it.

    ``shape`` and ``style`` are Graphviz's words; ``line`` colours the outline, ``fill`` the inside; ``outlines`` is how
    many there are.
    """

    shape: str
    style: str
    line: str
    fill: str
    meaning: str
    outlines: int = 1


NODE_LOOKS: dict[NodeKind, Look] = {
    NodeKind.FUNCTION: Look("box", "rounded,filled", GREY, WHITE, "autograd node"),
    NodeKind.CUSTOM_FUNCTION: Look("component", "filled", "#0072B2", "#E3F0F8", "custom autograd.Function"),
    NodeKind.ACCUMULATE_GRAD: Look("tab", "filled", "#009E73", "#EAF7F2", "leaf: AccumulateGrad adds to its .grad"),
    NodeKind.BACKWARD_HOOK: Look(
        "box", "filled", "#D55E00", "#FCEBDD", "BackwardHookFunction of a full hook", outlines=2
    ),
    NodeKind.COPY_SLICES: Look("note", "filled", "#B8739A", "#F8EBF3", "CopySlices: in-place change of a view"),
    NodeKind.COMPILED: Look("box3d", "filled", "#7B6BB5", "#EDEAF6", "region compiled by torch.compile"),
    NodeKind.CHECKPOINT: Look("folder", "filled", "#9A7D0A", "#FBF6D9", "checkpoint: recomputed in backward"),
    NodeKind.SCRIPTED: Look("hexagon", "filled", "#2E86A8", "#E4F1F5", "TorchScript graph"),
    NodeKind.ERROR: Look("octagon", "filled", "#CC3D3D", "#FBE4E4", "raises when backward reaches it"),
    NodeKind.OPAQUE: Look("box", "diagonals,filled", "#8A6D5A", "#F3EEEA", "node of an unknown kind"),
}

ROOT = Look("invhouse", "filled", "#0B7A75", "#DDF1EF", "backward starts here")
COLLAPSED = Look("box", "bold,filled", GREY, "#ECEFF3", "module call, its nodes not drawn")
STUB = Look("box", "dotted,filled", GREY, "#F7F7F7", "outside of the module drawn")
NO_GRADIENT = Look("box", "dashed,filled", GREY, WHITE, "a tensor that needs no gradient")
LOST = Look("box", "dashed,filled", "#CC3D3D", WHITE, "parameters that no gradient reaches, and why")
HOOKED = Look("box", "rounded,filled", GREY, WHITE, "")
"""The box of a hook kind's legend entry; its fill is the kind's."""

PLAIN = Look("plain", "", GREY, WHITE, "", outlines=0)
"""The box of a line's legend entry: none."""

ARGUMENT = Look("house", "filled", "#0B7A75", "#DDF1EF", "an argument of the forward")
ATTRIBUTE = Look("cds", "filled", "#009E73", "#EAF7F2", "a parameter, a buffer or a constant")
CALL = Look("box", "filled", GREY, WHITE, "a function call, and where its backward begins")
CALL_WITHOUT_GRAD = Look("box", "rounded,dashed,filled", GREY, "#F7F7F7", "a function call, no result requires grad")
RESULT = Look("invhouse", "filled", "#0B7A75", "#DDF1EF", "what the forward returns", outlines=2)
FORWARD_LOOKS = (ARGUMENT, ATTRIBUTE, CALL, CALL_WITHOUT_GRAD, RESULT)
"""Of the recorded forward."""

_PALETTE = {
    "vermillion": "#D55E00",
    "blue": "#0072B2",
    "sky blue": "#56B4E9",
    "dark vermillion": "#552600",
    "dark blue": "#002E47",
    "light sky blue": "#AADAF4",
    "orange": "#E69F00",
    "yellow": "#F0E442",
    "bluish green": "#009E73",
    "reddish purple": "#CC79A7",
    "dark reddish purple": "#854F6D",
    "black": "#000000",
}
"""Colours by the names that the table of hook kinds uses."""

HOOK_FILLS: dict[HookKind, str] = {kind: _PALETTE[kind.colour] for kind in HookKind}

MODULE_FILLS = ("#F4F6F9", "#E9EDF3")
"""Fills of module clusters, by turns from the outside in."""
MODULE_LINE = "#9AA5B4"
LEGEND_FILL = WHITE
LABEL_FILL = WHITE
EDGE_LINE = GREY


PAGE, DARK_PAGE = WHITE, "#1E1E1E"
_DARK_FILL, _DARK_LINE = 0.165, 0.62
"""Lightness, of 1, of a white fill in the dark, and the least of a line."""


class Flow(enum.Enum):
    """What goes along a line, and how it is drawn: ``style`` is Graphviz's word.

    ``GRADIENT``, ``NONE``, ``UNKNOWN``  whether a gradient goes along an edge of the backward graph
    ``VALUE``  what one call of the forward gives to the next
    ``PAIR``   joins a call of the forward with the node where its backward begins
    """

    GRADIENT = ("solid", EDGE_LINE, "a gradient: argument name, shape")
    NONE = ("dashed", EDGE_LINE, "no gradient")
    UNKNOWN = ("dotted", EDGE_LINE, "gradient or none: only backward decides")
    VALUE = ("solid", "#0B7A75", "a value of the forward: its shape when it was made")
    PAIR = ("dashed", "#0072B2", "joins a call with the node where its backward begins")

    def __init__(self, style: str, colour: str, meaning: str) -> None:
        self.style = style
        self.colour = colour
        self.meaning = meaning


def luminance(colour: str) -> float:
    """The relative luminance of ``#RRGGBB``, from 0 for black to 1 for white, as WCAG 2 defines it.

    >>> luminance("#FFFFFF")
    1.0
    """
    red, green, blue = (_undo_gamma(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _undo_gamma(channel: float) -> float:
    """One sRGB channel with its gamma taken out: the constants are WCAG's."""
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4  # noqa: PLR2004


def contrast(one: str, other: str) -> float:
    """The WCAG 2 contrast ratio of two colours, from 1 to 21.

    >>> round(contrast("#000000", "#FFFFFF"), 6)
    21.0
    """
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def pick_text_colour(fill: str) -> str:
    """Black or white: whichever reads better on that fill.

    >>> pick_text_colour("#F0E442"), pick_text_colour("#0072B2")
    ('#000000', '#FFFFFF')
    """
    return max((BLACK, WHITE), key=lambda text: contrast(text, fill))


def darken_fill(fill: str) -> str:
    """The fill that stands for this one on a dark page: a light one becomes dark, a strong one stays.

    >>> darken_fill("#FFFFFF"), darken_fill("#0072B2")
    ('#2A2A2A', '#0072B2')
    """
    hue, lightness, saturation = _to_hls(fill)
    if fill in HOOK_FILLS.values() or lightness < 0.8:  # noqa: PLR2004
        return fill
    return _to_colour(hue, _DARK_FILL + (1 - lightness) * 0.6, saturation * 0.5)


def lighten_line(line: str) -> str:
    """The colour that stands for this line's on a dark page.

    >>> lighten_line("#0072B2")
    '#3DB9FF'
    """
    hue, lightness, saturation = _to_hls(line)
    return _to_colour(hue, max(lightness, _DARK_LINE), saturation)


def _to_hls(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return colorsys.rgb_to_hls(red, green, blue)


def _to_colour(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(each * 255):02X}" for each in colorsys.hls_to_rgb(hue, lightness, saturation))

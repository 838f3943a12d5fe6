"""The promises of the theme: text reads on its fill, lines show on white and on dark, colours can be told apart."""

from itertools import combinations

import pytest

from fxgrad.graph import HookKind, NodeKind
from fxgrad.render.pictures import theme

READABLE = 4.5
"""WCAG 2, 1.4.3: contrast of text."""
VISIBLE = 3.0
"""WCAG 2, 1.4.11: contrast of lines."""
DARK_PAGE = "#1E1E1E"
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
LOOKS = (*theme.NODE_LOOKS.values(), theme.ROOT, theme.COLLAPSED, theme.STUB, theme.NO_GRADIENT, *theme.FORWARD_LOOKS)
FILLS = {
    *(look.fill for look in LOOKS),
    *theme.HOOK_FILLS.values(),
    *theme.MODULE_FILLS,
    theme.LEGEND_FILL,
    theme.LABEL_FILL,
}
# Machado, Oliveira, Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1.0, on linear RGB
EYES = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
APART = 15
"""CIE76; 2.3 is just noticeable, and the closest pair of Okabe and Ito's own, blue and green to a tritan, has 15.7."""


def linear(colour):
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]


def lab(red, green, blue):
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    x, y, z = (max(t, 0) ** (1 / 3) if t > 0.008856 else 7.787 * max(t, 0) + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour, eyes):
    return lab(*(sum(weight * channel for weight, channel in zip(row, linear(colour), strict=True)) for row in eyes))


def difference(one, other, eyes):
    return sum((a - b) ** 2 for a, b in zip(seen(one, eyes), seen(other, eyes), strict=True)) ** 0.5


def test_every_node_kind_has_a_look():
    assert set(theme.NODE_LOOKS) == set(NodeKind)


def test_every_hook_kind_has_a_fill():
    assert set(theme.HOOK_FILLS) == set(HookKind)


def test_no_two_looks_have_one_outline():
    assert len({(look.shape, look.style, look.outlines) for look in LOOKS}) == len(LOOKS)


def test_no_two_node_kinds_have_one_line_colour():
    assert len({look.line for look in theme.NODE_LOOKS.values()}) == len(NodeKind)


def test_no_two_looks_mean_the_same():
    assert len({look.meaning for look in LOOKS}) == len(LOOKS)


@pytest.mark.parametrize("fill", sorted(FILLS))
def test_text_reads_on_every_fill(fill):
    assert theme.contrast(theme.pick_text_colour(fill), fill) >= READABLE


@pytest.mark.parametrize("fill", [*theme.MODULE_FILLS, theme.LEGEND_FILL, theme.LABEL_FILL])
def test_black_text_reads_on_frames_and_plates(fill):
    assert theme.contrast(theme.BLACK, fill) >= READABLE


@pytest.mark.parametrize("page", [theme.WHITE, DARK_PAGE])
@pytest.mark.parametrize("line", sorted({look.line for look in LOOKS} | {flow.colour for flow in theme.Flow}))
def test_lines_show_on_white_and_on_dark(line, page):
    assert theme.contrast(line, page) >= VISIBLE


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.meaning)
def test_an_outline_shows_on_its_fill(look):
    assert theme.contrast(look.line, look.fill) >= VISIBLE


@pytest.mark.parametrize("eyes", EYES)
def test_fills_of_hook_kinds_can_be_told_apart(eyes):
    pairs = combinations(theme.HOOK_FILLS.items(), 2)
    close = [(a.name, b.name) for (a, one), (b, other) in pairs if difference(one, other, EYES[eyes]) < APART]
    assert close == []


def test_fills_that_differ_in_green_and_red_alone_would_not_pass():
    assert difference("#D55E00", "#9B7A00", EYES["deutan"]) < APART < difference("#D55E00", "#9B7A00", EYES["usual"])


def test_local_hooks_have_the_colours_of_okabe_and_ito_and_global_hooks_shades_of_them():
    outside = {kind for kind, fill in theme.HOOK_FILLS.items() if fill not in OKABE_ITO}
    assert outside == {kind for kind in HookKind if kind.is_global} | {HookKind.NODE_PRE}


def test_contrast_is_that_of_wcag():
    assert theme.contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.005)

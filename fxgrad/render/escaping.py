"""Text in DOT: quoted for its two notations, HTML-like labels and tooltips, and measured.

What is the user's has passed through `fxgrad.graph.text.escape` before: it is one line and prints.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from unicodedata import east_asian_width

NOTHING = "&#160;"
"""Graphviz refuses a label with an empty ``<B></B>`` in it."""
FULL_WIDTH_EM = 1.05
WIDE, WIDE_EM = frozenset("@%mwMW…—"), 1.0
NARROW, NARROW_EM = frozenset(" !'(),-./:;I[]`fijlrt|·"), 0.42
CAPITAL_EM = 0.77
USUAL_EM = 0.64


def html_text(text: str) -> str:
    r"""Write the text as character data of an HTML-like label, in which Graphviz still expands ``\N`` and its like.

    >>> print(html_text("<lambda> & 'x' of \\N"))
    &lt;lambda&gt; &amp; &#x27;x&#x27; of \\N
    """
    return html.escape(text.replace("\\", r"\\")) or NOTHING


def tooltip_text(lines: Iterable[str]) -> str:
    r"""Write the lines as one tooltip, in which ``&`` starts a character entity and a backslash an escape.

    Graphviz expands escapes of tooltips twice, line breaks first, then ``\\N`` and its like (lib/common/emit.c:
    interpretCRNL, strdup_and_subst_obj), so a backslash takes four.

    >>> print(tooltip_text(["C:\\new", "b &lt; c"]))
    C:\\\\new\nb &amp;lt; c
    """
    return r"\n".join(line.replace("&", "&amp;").replace("\\", r"\\\\") for line in lines)


def shortened(text: str, width: int) -> str:
    """Cut the text to at most that many characters; what goes is in the middle, because both ends of a name tell.

    >>> shortened("encoder.layers.0.self_attn.out_proj.weight", 20)
    'encoder.la…oj.weight'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def ems(text: str) -> float:
    """Estimate how wide the text is in DejaVu Sans, a wide sans-serif font, in units of the font's size.

    A picture made with one font is looked at with another: boxes are at least this wide, whatever the font here is.

    >>> round(ems("AddmmBackward0"), 2)
    10.08
    """
    return sum(map(_em, text))


def _em(character: str) -> float:
    if character in NARROW:
        return NARROW_EM
    if character in WIDE:
        return WIDE_EM
    if east_asian_width(character) in "WF":
        return FULL_WIDTH_EM
    return CAPITAL_EM if character.isupper() else USUAL_EM

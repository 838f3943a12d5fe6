"""Text in DOT: quoted for its two notations, HTML-like labels and escStrings, and measured.

What is the user's has passed through `fxgrad.graph.notation.escaped` before: it is one line and prints.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from unicodedata import east_asian_width

FULL_WIDTH_EM = 1.05
WIDE, WIDE_EM = frozenset("@%mwMW…—"), 1.0
NARROW, NARROW_EM = frozenset(" !'(),-./:;I[]`fijlrt|·"), 0.42
CAPITAL_EM = 0.77
USUAL_EM = 0.64


def html_text(text: str) -> str:
    """Write the text as character data of an HTML-like label.

    >>> html_text("<lambda> & 'x'")
    '&lt;lambda&gt; &amp; &#x27;x&#x27;'
    """
    return html.escape(text)


def escaped_lines(lines: Iterable[str]) -> str:
    r"""Write the lines as one Graphviz escString, where a backslash starts an escape and ``&`` a character entity.

    >>> print(escaped_lines(["a name of \\N", "b &lt; c"]))
    a name of \\N\nb &amp;lt; c
    """
    return r"\n".join(line.replace("\\", r"\\").replace("&", "&amp;") for line in lines)


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
    10.28
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

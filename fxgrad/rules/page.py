"""A rule's page: what ``fxgrad rule FXG101`` shows."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Page:
    """A rule, explained without a model at hand.

    ``what`` the situation; ``why`` PyTorch does so, with the file that decides it (``source``); ``example`` a doctest;
    ``fix`` what to do. Paragraphs are separated by blank lines.
    """

    code: str
    title: str
    what: str
    why: str
    source: str
    example: str
    fix: str

    def __str__(self) -> str:
        """The page as text, at most 80 columns wide but for the example."""
        parts = [
            ("What happens", _paragraphs(self.what)),
            ("Why", f"{_paragraphs(self.why)}\n\n{_paragraphs(f'PyTorch: {self.source}')}"),
            ("Example", textwrap.indent(textwrap.dedent(self.example).strip("\n "), "  ")),
            ("What to do", _paragraphs(self.fix)),
        ]
        return "\n\n".join([f"{self.code}  {self.title}", *(f"{name}\n{text}" for name, text in parts)]) + "\n"


def _paragraphs(text: str) -> str:
    wrapped = (_wrapped(paragraph) for paragraph in text.strip().split("\n\n"))
    return "\n\n".join(wrapped)


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(
        " ".join(paragraph.split()),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )

"""What a rule is: a code with its page, and the functions that explain where it holds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fxgrad.graph import BackwardGraph, Explanation
from fxgrad.rules.subject import Subject

_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Page:
    """A rule, explained without a model at hand: what ``fxgrad rule FXG101`` shows.

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
            ("What happens", _wrap_paragraphs(self.what)),
            ("Why", f"{_wrap_paragraphs(self.why)}\n\n{_wrap_paragraphs(f'PyTorch: {self.source}')}"),
            ("Example", textwrap.indent(textwrap.dedent(self.example).strip("\n "), "  ")),
            ("What to do", _wrap_paragraphs(self.fix)),
        ]
        return "\n\n".join([f"{self.code}  {self.title}", *(f"{name}\n{text}" for name, text in parts)]) + "\n"


def _wrap_paragraphs(text: str) -> str:
    return "\n\n".join(map(_wrap, text.strip().split("\n\n")))


def _wrap(paragraph: str) -> str:
    return textwrap.fill(
        " ".join(paragraph.split()),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One code. Each of its functions yields nothing if the records do not meet its condition.

    ``hook_rules`` look at one hook at one owner, ``graph_rules`` at a whole graph, ``error_rules`` at the message of an
    error that PyTorch raised.
    """

    page: Page
    hook_rules: tuple[Callable[[Subject], Iterator[Explanation]], ...] = ()
    graph_rules: tuple[Callable[[BackwardGraph], Iterator[Explanation]], ...] = ()
    error_rules: tuple[Callable[[str], Explanation | None], ...] = ()

    @property
    def code(self) -> str:
        """``FXG101``; the meaning of a code never changes."""
        return self.page.code

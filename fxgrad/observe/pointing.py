"""Pointing at the character of an option's text that is wrong."""

from __future__ import annotations

from fxgrad.graph.text import escape


def pointed(option: str, text: str, *, at: int, problem: str) -> str:
    """The option, what is wrong, and its text with a caret under the character number ``at``.

    >>> print(pointed("--input", "f32[9", at=5, problem="] was expected"))
    bad --input: ] was expected
        f32[9
             ^
    """
    before = escape(text[: max(at, 0)])
    return f"bad {option}: {escape(problem)}\n    {escape(text)}\n    {' ' * len(before)}^"

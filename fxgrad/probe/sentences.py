"""How source lines are written in sentences about a supposed hook."""

from __future__ import annotations

from fxgrad.graph import Source
from fxgrad.graph.text import escape


def line_text(source: Source | None) -> str:
    """Where something is in the user's code, as an addition to a name.

    >>> line_text(Source("model.py", 12, "x = F.relu(x, inplace=True)"))
    ' at model.py:12 `x = F.relu(x, inplace=True)`'
    """
    if source is None:
        return ""
    code = f" `{escape(source.code)}`" if source.code else ""
    return f" at {escape(source.file)}:{source.line}{code}"

"""How calls, source lines and enumerations are written in sentences about a supposed hook."""

from __future__ import annotations

from collections.abc import Sequence

from fxgrad.graph import Source
from fxgrad.graph.notation import escaped

_MOST = 3


def line_text(source: Source | None) -> str:
    """Where something is in the user's code, as an addition to a name.

    >>> line_text(Source("model.py", 12, "x = F.relu(x, inplace=True)"))
    ' at model.py:12 `x = F.relu(x, inplace=True)`'
    """
    if source is None:
        return ""
    code = f" `{escaped(source.code)}`" if source.code else ""
    return f" at {escaped(source.file)}:{source.line}{code}"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"]), listed(["a", "b"])
    ('a, b, c and 2 more', 'a and b')
    """
    if len(names) > _MOST:
        return f"{', '.join(names[:_MOST])} and {len(names) - _MOST} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)

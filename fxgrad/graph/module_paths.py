"""Finds the module that somebody means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fxgrad.errors import UsageError
from fxgrad.graph.notation import escaped

if TYPE_CHECKING:
    from fxgrad.graph.backward_graph import BackwardGraph

_SUBSCRIPT = re.compile(r"\[(?:'([^']*)'|\"([^\"]*)\"|([^\]]*))\]")


def find_module_path(graph: BackwardGraph, text: str) -> str:
    """The path of the module that `text` names: its path, one of its aliases, or ``layers[3]``.

    Raises UsageError with the nearest paths where there is none.
    """
    for path in (text, dotted(text)):
        if path in graph.modules_by_path:
            return graph.modules_by_path[path].path
    known = list(graph.modules_by_path)
    near = difflib.get_close_matches(dotted(text), known, n=3, cutoff=0.4) or known[:5]
    raise UsageError(
        f"no module {escaped(text)!r}",
        f"the path of one of the {len(known)} modules" if known else "a module of the model: this trace names none",
        _one_of(near) if near else "leave it out",
    )


def _one_of(paths: list[str]) -> str:
    shown = [escaped(path) or '"" (the model itself)' for path in paths]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]


def dotted(text: str) -> str:
    """A path written with subscripts, with dots.

    >>> dotted("encoder.layers[3]['attention']"), dotted("[0].weight")
    ('encoder.layers.3.attention', '0.weight')
    """
    with_dots = _SUBSCRIPT.sub(lambda match: "." + next(part for part in match.groups() if part is not None), text)
    return with_dots.removeprefix(".")


def holders(path: str) -> Iterator[str]:
    """The paths of the modules around a module, the nearest first, the model itself last.

    >>> list(holders("encoder.layers.3"))
    ['encoder.layers', 'encoder', '']
    """
    while path:
        path = path.rpartition(".")[0]
        yield path


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of the paths that are inside no other of them, in their order.

    >>> outermost(["encoder", "encoder.layers.3", "head"])
    ['encoder', 'head']
    """
    known = dict.fromkeys(paths)
    return [path for path in known if not any(holder in known for holder in holders(path))]

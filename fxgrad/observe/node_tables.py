"""Reads the tables of hooks on autograd nodes, and leaves nothing behind.

A node shows its table only to who registers a hook there: C++ hands the table, None where there is none, to
``torch.autograd.Function._register_hook``, and keeps the table that comes back (``registerFunctionHook`` in
torch/csrc/autograd/python_cpp_function.cpp). Where that raises nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd import Function
from torch.autograd.graph import Node as AutogradNode

Table = dict[Any, Any]


class _Shown(Exception):
    """Ends a registration that was only made to see the table."""


def _marker(*_: object) -> None:
    """Is never registered for good."""


class NodeTables:
    """A context in which nodes can be asked for their tables; hooks that others register meanwhile are registered."""

    def __enter__(self) -> NodeTables:
        """Stand in for the function that C++ calls."""
        self._own = vars(Function).get("_register_hook")
        self._original: Callable[..., Any] = Function._register_hook
        self._table: Table | None = None
        Function._register_hook = staticmethod(self._register)  # type: ignore[method-assign]
        return self

    def __exit__(self, *raised: object) -> None:
        """Put the function back."""
        if self._own is None:
            del Function._register_hook
        else:
            Function._register_hook = self._own  # type: ignore[method-assign]

    def _register(self, table: Table | None, hook: Any) -> Any:
        if hook is not _marker:
            return self._original(table, hook)
        self._table = table
        raise _Shown

    def after(self, node: AutogradNode) -> Table | None:
        """The table of ``Node.register_hook``; None where no hook was ever registered there."""
        return self._shown(node.register_hook)

    def before(self, node: AutogradNode) -> Table | None:
        """The table of ``Node.register_prehook``; None where no hook was ever registered there."""
        return self._shown(node.register_prehook)

    def _shown(self, register: Callable[[Any], Any]) -> Table | None:
        try:
            handle = register(_marker)
        except _Shown:
            return self._table
        shown: Table | None = handle.hooks_dict_ref()  # a torch that asks another function: it has made a table
        handle.remove()
        return shown

"""When a multi-grad hook is called, and with what: the counting that ``register_multi_grad_hook`` does.

torch/autograd/graph.py: an "all" hook puts a hook on each tensor, counts their calls and compares with how many of the
tensors' nodes ``torch._C._will_engine_execute_node`` names; an "any" hook lets the first call through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fxgrad.graph import Gradient, Hook
from fxgrad.graph.notation import escaped
from fxgrad.predict.entries import View, grad_output_entry
from fxgrad.predict.formulas import NONE, UNKNOWN
from fxgrad.predict.outlook import Outlook

_UNTOUCHED = "backward does not come to it"
_LATER = "backward comes to it after the hook was called"


class Call(NamedTuple):
    """One call of a multi-grad hook: at which target, and which targets had come before, that one included."""

    target: int
    seen: frozenset[int]


class Counter:
    """Follows one multi-grad hook through one backward."""

    def __init__(self, outlook: Outlook, hook: Hook) -> None:
        self._hook = hook
        self._seen: list[int] = []
        self._expected = _executed_targets(outlook, hook)
        self._raises = hook.mode == "all" and _refuses_leaf(outlook, hook)
        self.calls: list[Call] = []

    def visit(self, target: int) -> bool | None:
        """The hook on one target is called. Whether it calls the user's function; None: it raises."""
        if self._raises:
            return None
        self._seen.append(target)
        if not self._is_due():
            return False
        self.calls.append(Call(target, frozenset(self._seen)))
        if self._hook.mode == "all":
            self._seen.clear()
        return True

    def _is_due(self) -> bool:
        return len(self._seen) == (1 if self._hook.mode == "any" else self._expected)


def _executed_targets(outlook: Outlook, hook: Hook) -> int:
    return sum(node is not None and bool(outlook.schedule.will_run[node]) for node, _ in hook.target_slots)


def _refuses_leaf(outlook: Outlook, hook: Hook) -> bool:
    """Whether ``_will_engine_execute_node`` raises (torch/csrc/autograd/init.cpp): for a leaf that grad captures."""
    call = outlook.call
    if call.api != "grad":
        return False
    captured = {node for node, _ in call.inputs or ()}
    leaves = {node for node, _ in hook.target_slots if node is not None and not outlook.graph.nodes[node].edges}
    return bool(captured & leaves)


def entries(outlook: Outlook, hook: Hook, calls: list[Call]) -> tuple[Gradient, ...]:
    """What the user's function gets: one entry per tensor; of an "any" hook, that of the tensor that came first."""
    if hook.mode == "any":
        target = calls[0].target if calls else 0
        return (_entry(outlook, hook, target, index=0),) if hook.target_slots else ()
    return tuple(_of_all_calls(outlook, hook, calls))


def _of_all_calls(outlook: Outlook, hook: Hook, calls: list[Call]) -> Iterator[Gradient]:
    for target in range(len(hook.target_slots)):
        entry = _entry(outlook, hook, target, index=target)
        times = sum(target in call.seen for call in calls)
        if times == len(calls):
            yield entry
        elif times:
            reason = f"the hook is called {len(calls)} times, {times} of them with this gradient"
            yield _changed(entry, UNKNOWN, reason)
        else:
            yield _changed(entry, NONE, _LATER if entry.status != NONE else entry.reason or _UNTOUCHED)


def _changed(entry: Gradient, status: str, reason: str) -> Gradient:
    return Gradient(entry.index, entry.argument, status, entry.shape, entry.dtype, entry.expression, reason)


def _entry(outlook: Outlook, hook: Hook, target: int, *, index: int) -> Gradient:
    node, slot = hook.target_slots[target]
    name = hook.targets[target] if target < len(hook.targets) else f"tensors[{target}]"
    if node is None or node not in outlook.ranks:
        return Gradient(index, name, NONE, None, None, None, _UNTOUCHED)
    return grad_output_entry(View(outlook, outlook.graph.nodes[node]), slot, index=index, argument=name)


def silence(outlook: Outlook, hook: Hook) -> str:
    """Why the hook is not called although backward comes to one of its tensors."""
    if hook.mode == "all" and _refuses_leaf(outlook, hook):
        return "autograd.grad raises: one of the hook's tensors is a leaf in inputs="
    return (
        f"an 'all' hook waits for as many gradients as PyTorch executes nodes among those of {_names(hook)}, "
        "and it does not count the root that backward starts from"
    )


def _names(hook: Hook) -> str:
    return ", ".join(escaped(name) for name in hook.targets)

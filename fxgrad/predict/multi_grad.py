"""When a multi-grad hook is called, and with what: the counting that ``register_multi_grad_hook`` does.

torch/autograd/graph.py: an "all" hook puts a hook on each tensor, counts their calls and compares with how many of the
tensors' nodes ``torch._C._will_engine_execute_node`` names; an "any" hook lets the first call through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from fxgrad.graph import Gradient, Hook
from fxgrad.graph.text import escape
from fxgrad.predict.entries import View, grad_output_entry, left_open
from fxgrad.predict.formulas import NONE, UNKNOWN
from fxgrad.predict.outlook import Outlook

_UNTOUCHED = "backward does not come to it"
_LATER = "backward comes to it after the hook was called"
_EARLIER = "an earlier call of the hook got it"


class Call(NamedTuple):
    """One call of a multi-grad hook: at which target, and which targets had come before, that one included."""

    target: int
    seen: frozenset[int]


class Counter:
    """Follows one multi-grad hook through one backward."""

    def __init__(self, outlook: Outlook, hook: Hook) -> None:
        self._outlook = outlook
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

    def place(self, nth: int) -> tuple[int | None, int]:
        """Node and slot at which the hook is called: those of the tensor that completes it."""
        return self._hook.target_slots[self.calls[nth].target]

    def which(self, nth: int) -> str:
        """Which of several calls this is, and why there are several; "" where there is one."""
        if len(self.calls) == 1:
            return ""
        enough = "1 gradient is" if self._expected == 1 else f"{self._expected} gradients are"
        counted = f"of their nodes PyTorch counts {self._expected} as executed, so {enough} enough"
        return f"; call {nth + 1} of {len(self.calls)}: {counted}"

    def entries(self, nth: int) -> tuple[Gradient, ...]:
        """What the user's function gets: one entry per tensor; of an "any" hook, that of the tensor that came first."""
        outlook, hook, call = self._outlook, self._hook, self.calls[nth]
        if hook.mode == "any":
            return (_entry(outlook, hook, call.target, index=0),)
        earlier = frozenset[int]().union(*[before.seen for before in self.calls[:nth]])
        entries = [_entry(outlook, hook, target, index=target) for target in range(len(hook.target_slots))]
        return tuple(
            [
                entry if entry.index in call.seen else _without(entry, earlier=entry.index in earlier)
                for entry in entries
            ]
        )

    def any_entries(self, reason: str) -> tuple[Gradient, ...]:
        """What it gets where only backward decides when it is called."""
        outlook, hook = self._outlook, self._hook
        if hook.mode == "any":
            return (Gradient(0, None, UNKNOWN, None, None, None, reason),)
        return left_open(
            [_entry(outlook, hook, target, index=target) for target in range(len(hook.target_slots))], reason
        )


def _executed_targets(outlook: Outlook, hook: Hook) -> int:
    return sum(bool(outlook.schedule.will_run[node]) for node in _counted_nodes(hook))


def _counted_nodes(hook: Hook) -> Iterator[int]:
    for target, (node, _) in enumerate(hook.target_slots):
        if node is not None and target not in hook.uncounted:
            yield node


def _refuses_leaf(outlook: Outlook, hook: Hook) -> bool:
    """Whether ``_will_engine_execute_node`` raises (torch/csrc/autograd/init.cpp): for a leaf that grad captures."""
    call = outlook.call
    if call.api != "grad":
        return False
    captured = {node for node, _ in call.inputs or ()}
    leaves = {node for node in _counted_nodes(hook) if not outlook.graph.nodes[node].edges}
    return bool(captured & leaves)


def _without(entry: Gradient, *, earlier: bool) -> Gradient:
    """The entry of a tensor whose gradient is not among those that the hook is called with."""
    waits = _EARLIER if earlier else _LATER
    reason = waits if entry.status != NONE else entry.reason or _UNTOUCHED
    return replace(entry, status=NONE, reason=reason)


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
    return ", ".join(escape(name) for name in hook.targets)

"""Hooks that a backward for chosen inputs leaves out: FXG114."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Explanation
from fxgrad.graph.text import end_sentence, escape, format_backward_call, name_hook_function
from fxgrad.rules.subject import Subject


def inputs_leave_the_hook_out(subject: Subject) -> Iterator[Explanation]:
    """FXG114: with ``inputs=`` the engine does not come to the hook's node, or does not execute it."""
    if not subject.left_out:
        return
    site = subject.left_out[0]
    call = escape(format_backward_call(subject.graph.info.backward))
    yield Explanation(
        code="FXG114",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} does not fire in {call}",
        because=f"{end_sentence(site.reason)} In a backward without inputs= it fires. {_RULE}",
        fix="call backward without inputs=, or list a tensor there whose gradient comes through the hook's node",
        site=site,
    )


_RULE = (
    "Only nodes on the way to one of the inputs are executed, and of the inputs' own nodes autograd.grad runs nothing "
    "but the hooks on tensors. (torch/csrc/autograd/engine.cpp, GraphTask::init_to_execute)"
)

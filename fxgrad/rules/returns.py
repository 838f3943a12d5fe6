"""What a hook may return: FXG109."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from fxgrad.graph import Explanation, Gradient, HookKind, HookSite, Node
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_entry,
    format_shape,
    format_tuple,
    join_words,
    name_hook_function,
    quote_code,
)
from fxgrad.rules.leaves import LeavesBehind
from fxgrad.rules.subject import Subject

_MOST_ENTRIES = 12
_MOST_LEAVES = 6
_REPLACE_NOTHING = (HookKind.RETAIN_GRAD, HookKind.POST_ACCUMULATE_GRAD, HookKind.MULTI_GRAD)
_BEFORE_THE_NODE = (
    HookKind.TENSOR,
    HookKind.NODE_PRE,
    HookKind.MODULE_FULL_BACKWARD_PRE,
    HookKind.GLOBAL_FULL_BACKWARD_PRE,
)
"""What they return is what the node gets; of full pre-hooks that holds for BackwardHookFunction, the identity."""
_COUNT = re.compile(
    r"returned an (?:incorrect number of values|invalid number of grad_(?:in|out)put)[ ,(]*"
    r"got (\d+), but expected (\d+)"
)


def hook_may_return_a_value(subject: Subject) -> Iterator[Explanation]:
    """FXG109: the hook's code can return something, and PyTorch takes it for new gradients."""
    hook, placed = subject.hook, [placed for placed in subject.placed if placed.site.fires is not False]
    if not hook.may_return or not placed or hook.kind in _REPLACE_NOTHING:
        return
    site, node, _ = placed[0]
    yield Explanation(
        code="FXG109",
        severity="info",
        headline=f"{name_hook_function(hook)} may return something else than None",
        because=(
            f"What it returns takes the place of {_replaced(site)} at {escape(node.label)}. "
            f"{_changed_behind(subject.index.leaves_behind, site, node)} "
            "What fxgrad says of this graph assumes that it returns None."
        ),
        fix=f"return {must_return(site)}",
        site=site,
    )


def _replaced(site: HookSite) -> str:
    if site.hook.kind is HookKind.TENSOR:
        return "the gradient"
    return "grad_output" if site.hook.kind in _BEFORE_THE_NODE else "grad_input"


def _changed_behind(behind: LeavesBehind, site: HookSite, node: Node) -> str:
    """Which leaves get other gradients: those behind what is replaced."""
    starts = [node.id] if site.hook.kind in _BEFORE_THE_NODE else _behind_entries(site, node)
    count, names = behind.of(starts)
    leaves = [quote_code(name) for name in islice(names, _MOST_LEAVES)]
    if behind.lead_to_nesting(starts):
        leaves.append("what a backward uses that a node behind it starts")
        return f"That changes .grad of {join_words(leaves, most=_MOST_LEAVES, total=count + 1)}."
    if not leaves:
        return "No leaf gets its gradient from that: no .grad changes."
    return f"That changes .grad of {join_words(leaves, most=_MOST_LEAVES, total=count)}, and of no other leaf."


def _behind_entries(site: HookSite, node: Node) -> list[int]:
    """The nodes that the entries of grad_input go to, without those that are None: a None stays one."""
    entries: Sequence[Gradient | None] = site.grad_input
    if len(entries) != len(node.edges):  # a full hook has entries for arguments that are no tensors, too
        entries = (None,) * len(node.edges) if any(entry.status != "none" for entry in site.grad_input) else ()
    pairs = zip(node.edges, entries, strict=False)
    return [
        edge.next_node
        for edge, entry in pairs
        if edge.next_node is not None and (entry is None or entry.status != "none")
    ]


def must_return(site: HookSite) -> str:
    """What a hook may return at this site, as a phrase.

    PyTorch checks number, shape, dtype and None in torch/csrc/autograd/python_hook.cpp, for full hooks the number also
    in torch/utils/hooks.py. A full pre-hook may return a tensor where its grad_output is None.
    """
    match site.hook.kind:
        case HookKind.TENSOR:
            return _tensor(site)
        case HookKind.POST_ACCUMULATE_GRAD:
            return "None: anything else raises"
        case HookKind.RETAIN_GRAD | HookKind.MULTI_GRAD:
            return "anything: it is not used"
        case HookKind.MODULE_FULL_BACKWARD_PRE | HookKind.GLOBAL_FULL_BACKWARD_PRE:
            return _tuple("grad_output", site.grad_output)
        case HookKind.NODE_PRE:
            return _tuple("grad_output", site.grad_output) + _none_stays(site.grad_output)
        case _:
            return _tuple("grad_input", site.grad_input) + _none_stays(site.grad_input)


def _tensor(site: HookSite) -> str:
    (gradient,) = site.grad_output
    if gradient.status == "unknown":
        return f"None, or, where it is given a tensor, one of shape {format_shape(gradient.shape)}"
    return "None" + ("" if gradient.status == "none" else f", or one tensor of shape {format_entry(gradient)}")


def _tuple(name: str, gradients: Sequence[Gradient]) -> str:
    shapes = format_tuple(map(format_entry, gradients), most=_MOST_ENTRIES)
    entries = count_noun(len(gradients), "entry", plural="entries")
    return f"None, or a tuple of {entries} in place of {name}: {shapes}"


def _none_stays(gradients: Sequence[Gradient]) -> str:
    return " (never a tensor where an entry is None)" if any(entry.status != "tensor" for entry in gradients) else ""


def number_of_values_help(message: str) -> Explanation | None:
    """Explain the RuntimeError about the number of values that a hook returned; None for any other message."""
    found = _COUNT.search(message)
    if found is None:
        return None
    got, expected = found.groups()
    return Explanation(
        code="FXG109",
        severity="error",
        headline=f"a hook returned {count_noun(int(got), 'value')} where {expected} are expected",
        because=(
            "What a hook returns takes the place of the tuple it was given, entry by entry. A bare tensor is no "
            "tuple: its first dimension is taken for the number of entries. "
            "(torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py)"
        ),
        fix=f"return None, or a tuple of {count_noun(int(expected), 'entry', plural='entries')}, None where it was None",
    )

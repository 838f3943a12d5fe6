"""What a hook returns, and what that does: FXG109 and FXG118."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from fxgrad.graph import Explanation, Gradient, HookReturn, HookSite, Node
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.records import Status
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_argument,
    format_entry,
    format_shape,
    format_tuple,
    join_words,
    name_hook_function,
    pluralize,
    quote_code,
)
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import Subject

# FXG109

_FXG109 = Page(
    code="FXG109",
    title="What a hook may return",
    what="""
    backward raises "hook has returned an incorrect number of values (got 1, but expected 3)", "can't replace a
    None gradient with a non-None value" or "has changed the size of value".
    """,
    why="""
    A hook that returns something other than None replaces the gradients. It must return a tuple with one entry per
    entry of what it replaces: grad_input for non-full, full and node hooks, grad_output for pre-hooks; a tensor hook
    returns one tensor. Shape, dtype and layout must stay the same. For a non-full hook, the number of entries is that
    of the node's arguments (FXG101), not the module's. If a full hook or pre-hook returns a bare tensor, its first
    dimension counts as the number of entries.
    """,
    source="torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py, BackwardHook",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(10, 20)
    >>> handle = linear.register_backward_hook(lambda module, grad_input, grad_output: (grad_input[0],))
    >>> linear(torch.ones(8, 10)).sum().backward()
    Traceback (most recent call last):
        ...
    RuntimeError: hook '<lambda>' has returned an incorrect number of values (got 1, but expected 3)
    """,
    fix="""
    Return None, or a tuple as long as the one it replaces, with None where that has None. fxgrad shows the entries and
    shapes for each hook of your model.
    """,
)

_HOOKS_PY = "(torch/utils/hooks.py, BackwardHook)"
_RETURNS_CPP = "(torch/csrc/autograd/python_hook.cpp)"
_TOP_LEVEL = 2
"""The length of a path like ("args", 0)."""
_MOST_ENTRIES = 12
_MOST_LEAVES = 6
_COUNT = re.compile(
    r"returned an (?:incorrect number of values|invalid number of grad_(?:in|out)put)[ ,(]*"
    r"got (\d+), but expected (\d+)"
)


def _explain_return(subject: Subject) -> Iterator[Explanation]:
    """The hook's code can return a value, which PyTorch uses as the new gradients, or refuses."""
    hook, placed = subject.hook, [placed for placed in subject.placed if placed.site.fires is not False]
    if not hook.may_return or not placed or hook.kind.replaces is None:
        return
    refused = next((found for each in placed if (found := find_refused_return(subject, each.site))), None)
    if refused is not None:
        yield refused
        return
    site, node, _ = placed[0]
    yield Explanation(
        code="FXG109",
        severity="info",
        headline=f"{name_hook_function(hook)} may return something other than None",
        because=(
            f"What it returns replaces {hook.kind.replaces} at {escape(node.label)}. "
            f"{_name_changed_leaves(subject, site, node)} fxgrad's predictions for this graph assume that it returns "
            "None."
        ),
        fix=f"return {describe_return(site)}",
        site=site,
    )


# What PyTorch refuses


class _Refusal(NamedTuple):
    """What a hook returns, as the end of a sentence, and what PyTorch does with it. ``is_certain`` if it raises."""

    returns: str
    because: str
    is_certain: bool = True


def find_refused_return(subject: Subject, site: HookSite) -> Explanation | None:
    """Explain that PyTorch refuses what the hook returns at a site; None if it does not, or that is not known."""
    hook = site.hook
    found = [_refuse(site, value) for value in hook.returns]
    refusal = next((each for each in found if each is not None), None)
    always = all(each is not None and each.is_certain for each in found)
    # where grad_input is all None, code that returns None at some of its ends may know it
    if refusal is None or (_gets_only_none(site) and None in found):
        return None
    raises = "backward raises" if always and site.fires else "backward may raise"
    return Explanation(
        code="FXG109",
        severity="warning",
        headline=f"{raises}: {name_hook_function(hook)} returns {refusal.returns}",
        because=refusal.because,
        fix=_advise_on_return(subject, site),
        site=site,
    )


def _advise_on_return(subject: Subject, site: HookSite) -> str:
    if not _gets_only_none(site):
        return f"return {describe_return(site)}"
    call = subject.call(site)
    refs = [ref for ref in call.inputs if ref.path[0] == "args" and len(ref.path) == _TOP_LEVEL] if call else []
    names = [quote_code(format_argument(call.argument_names, ref.path)) for ref in refs] if call else []
    makes = f", or make {names[0]} require grad" if names else ""
    return f"return None, or change grad_output with register_full_backward_pre_hook{makes}"


def _gets_only_none(site: HookSite) -> bool:
    """Whether no positional argument requires grad: a full hook gets None for each, and may return nothing else."""
    entries = site.grad_input
    return site.hook.kind.is_full and entries is not None and all(entry.status == "none" for entry in entries)


def _refuse(site: HookSite, value: HookReturn) -> _Refusal | None:
    """Why PyTorch refuses a value; None if it does not, or that is not known."""
    if site.grad_input is None or site.grad_output is None:
        return None
    kind, given = site.hook.kind, _read_status(site, value)
    if kind.arguments is HookArguments.GRADIENT:
        return _refuse_gradient(site, value, given) or _refuse_misfit(site, [(value, _list_replaced(site)[0])])
    if _gets_only_none(site):
        return _refuse_any_value(site, value, given)
    entries = _list_replaced(site)
    of = f"{kind.replaces}, a tuple of {count_noun(len(entries), 'entry', plural='entries')}"
    takes_lists = kind.is_full or kind.is_full_pre
    if value.kind == "tuple" or (value.kind == "list" and takes_lists):
        refused = _refuse_members(site, _list_members(site, value), entries)
        return refused or _refuse_misfit(site, zip(_list_values(site, value), entries, strict=False))
    if value.kind == "other" or (value.kind == "list" and not takes_lists):
        return _Refusal(f"no tuple in place of {of}", f"PyTorch takes only a tuple. {_RETURNS_CPP}")
    if given != "tensor":
        return None
    if takes_lists:
        return _refuse_bare_tensor(site, value, f"one tensor in place of {of}", len(entries))
    return _Refusal(f"one tensor in place of {of}", f"PyTorch takes only a tuple. {_RETURNS_CPP}")


def _refuse_gradient(site: HookSite, value: HookReturn, given: Status) -> _Refusal | None:
    if value.kind in ("tuple", "list", "other"):
        what = "no tensor" if value.kind == "other" else f"a {value.kind}"
        return _Refusal(f"{what} in place of the gradient", f"PyTorch takes only one tensor. {_RETURNS_CPP}")
    if given == "tensor" and _list_replaced(site)[0].status == "none":
        return _Refusal(
            "a tensor in place of a gradient that is None", f"PyTorch does not replace None by a tensor. {_RETURNS_CPP}"
        )
    return None


def _refuse_any_value(site: HookSite, value: HookReturn, given: Status) -> _Refusal | None:
    members = _list_members(site, value) or []
    if given != "tensor" or (value.kind == "tuple" and "tensor" not in members):
        return None
    return _Refusal(
        "a value, and its grad_input is all None",
        "No positional argument requires grad. PyTorch then calls the hook with None for each of them, and raises if it "
        f"returns anything but None, or None for each. {_HOOKS_PY}",
    )


def _refuse_members(site: HookSite, members: Sequence[Status] | None, entries: Sequence[Gradient]) -> _Refusal | None:
    kind = site.hook.kind
    if members is None:
        return None
    in_python = kind.is_full or kind.is_full_pre
    if len(members) != len(entries):
        expected = f"{kind.replaces} has {count_noun(len(entries), 'entry', plural='entries')}"
        where = _HOOKS_PY if in_python else _RETURNS_CPP
        return _Refusal(
            f"{count_noun(len(members), 'value')}, and {expected}",
            f"What a hook returns replaces {kind.replaces}, entry by entry, so it must be as long. {where}",
        )
    pairs = enumerate(zip(members, entries, strict=True))
    at = next((at for at, (given, entry) in pairs if given == "tensor" and entry.status == "none"), None)
    if in_python or at is None:
        return None
    return _Refusal(
        f"a tensor in place of {kind.replaces}[{at}], which is None",
        f"PyTorch does not replace None by a tensor. {_RETURNS_CPP}",
    )


def _refuse_misfit(site: HookSite, pairs: Iterable[tuple[HookReturn, Gradient]]) -> _Refusal | None:
    """Refuse the first value that has another shape or dtype than the entry in whose place it comes."""
    for value, entry in pairs:
        misfit = _describe_misfit(site, value, entry) if entry.status == "tensor" else None
        if misfit is not None:
            return _Refusal(
                misfit, f"What a hook returns must have the shape and dtype of what it replaces. {_RETURNS_CPP}"
            )
    return None


def _describe_misfit(site: HookSite, value: HookReturn, entry: Gradient) -> str | None:
    given = _slice_argument(site, value) if value.kind == "argument" else ()
    shape = () if value.is_scalar else given[0].shape if len(given) == 1 else None
    if shape is not None and entry.shape is not None and shape != entry.shape and _are_numbers(*shape, *entry.shape):
        return f"a tensor of shape {format_shape(shape)} in place of one of {format_shape(entry.shape)}"
    if value.dtype is not None and entry.dtype is not None and value.dtype != entry.dtype:
        return f"a tensor of {value.dtype} in place of one of {escape(entry.dtype)}"
    return None


def _are_numbers(*sizes: int | str) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _refuse_bare_tensor(site: HookSite, value: HookReturn, returns: str, expected: int) -> _Refusal:
    takes = "PyTorch takes the first dimension of a bare tensor as the number of entries"
    entries = _slice_argument(site, value) if value.kind == "argument" else ()
    shape = entries[0].shape if len(entries) == 1 else None
    if shape is None or not all(isinstance(size, int) for size in shape):
        return _Refusal(returns, f"{takes}, and its rows as gradients. {_HOOKS_PY}", is_certain=False)
    if not shape:
        return _Refusal(returns, f"{takes}, and this one has none. {_HOOKS_PY}")
    if shape[0] != expected:
        are = pluralize(expected, "is", plural="are")
        return _Refusal(returns, f"{takes}: {shape[0]} here, where {expected} {are} expected. {_HOOKS_PY}")
    return _Refusal(returns, f"{takes}, and its rows as gradients: they have another shape. {_HOOKS_PY}")


def _read_status(site: HookSite, value: HookReturn) -> Status:
    """Whether a value is None; "tensor" is anything else."""
    if value.kind == "argument":
        entries = _slice_argument(site, value)
        return entries[0].status if len(entries) == 1 else "unknown"
    return value.kind if value.kind in ("none", "unknown") else "tensor"


def _list_members(site: HookSite, value: HookReturn) -> list[Status] | None:
    """Which members of a tuple or list are None; None if their number is not known."""
    if value.members is None:
        return None
    if value.each is None:
        return [_read_status(site, member) for member in value.members]
    (member,), entries = value.members, _slice_argument(site, value)
    is_entry = member.kind == "argument" and member.each is None
    return [entry.status if is_entry else _read_status(site, member) for entry in entries]


def _list_values(site: HookSite, value: HookReturn) -> Sequence[HookReturn]:
    """The members of a tuple or list, each by itself; nothing where they are not known."""
    if value.members is None:
        return ()
    if value.each is None:
        return value.members
    (member,), (name, start, _) = value.members, value.each
    if member.kind != "argument" or member.each is not None:
        return [member] * len(_slice_argument(site, value))
    numbers = range(start, start + len(_slice_argument(site, value))) if start >= 0 else ()
    return [HookReturn("argument", None, (name, number, number + 1)) for number in numbers]


def _slice_argument(site: HookSite, value: HookReturn) -> Sequence[Gradient]:
    """The entries of the argument that `HookReturn.each` tells of."""
    name, start, stop = value.each or ("", 0, 0)
    entries = site.grad_input if name == "grad_input" else site.grad_output if name != "leaf" else ()
    return (entries or ())[start:stop]


def _list_replaced(site: HookSite) -> Sequence[Gradient]:
    """The entries that what the hook returns takes the place of."""
    return (site.grad_input if site.hook.kind.replaces == "grad_input" else site.grad_output) or ()


# What it changes, and what it may be


def _name_changed_leaves(subject: Subject, site: HookSite, node: Node) -> str:
    """Which leaves get other gradients: those behind what is replaced."""
    behind = subject.facts.leaves_behind
    # what replaces grad_output is what the node gets; of full pre-hooks that holds for BackwardHookFunction, the identity
    starts = _list_next_nodes(site, node) if site.hook.kind.replaces == "grad_input" else [node.id]
    count, names = behind.list_leaves(starts)
    leaves = [quote_code(name) for name in islice(names, _MOST_LEAVES)]
    if behind.lead_to_nesting(starts):
        leaves.append("what a nested backward behind it uses")
        return f"That changes .grad of {join_words(leaves, most=_MOST_LEAVES, total=count + 1)}."
    if not leaves:
        return "No leaf gets its gradient from there, so no .grad changes."
    return f"That changes .grad of {join_words(leaves, most=_MOST_LEAVES, total=count)}, and of no other leaf."


def _list_next_nodes(site: HookSite, node: Node) -> list[int]:
    """The nodes that the entries of grad_input go to, without those of None entries, which stay None."""
    entries: Sequence[Gradient | None] = site.grad_input or ()
    if len(entries) != len(node.edges):  # a full hook has entries for arguments that are no tensors, too
        entries = (None,) * len(node.edges) if any(entry.status != "none" for entry in site.grad_input or ()) else ()
    pairs = zip(node.edges, entries, strict=False)
    return [
        edge.next_node
        for edge, entry in pairs
        if edge.next_node is not None and (entry is None or entry.status != "none")
    ]


def describe_return(site: HookSite) -> str:
    """What a hook may return at this site, as a phrase.

    PyTorch checks number, shape, dtype and None in torch/csrc/autograd/python_hook.cpp, for full hooks the number also
    in torch/utils/hooks.py. A full pre-hook may return a tensor where its grad_output is None.
    """
    kind = site.hook.kind
    if kind.arguments is HookArguments.LEAF:
        return "None: anything else raises"
    if kind.replaces is None:
        return "anything: the value is ignored"
    if kind.arguments is HookArguments.GRADIENT:
        return _describe_tensor(site)
    gradients = _list_replaced(site)
    return _describe_tuple(kind.replaces, gradients) + ("" if kind.is_full_pre else _describe_nones(gradients))


def _describe_tensor(site: HookSite) -> str:
    (gradient,) = _list_replaced(site)
    if gradient.status == "unknown":
        return f"None, or, if it gets a tensor, one of shape {format_shape(gradient.shape)}"
    return "None" + ("" if gradient.status == "none" else f", or one tensor of shape {format_entry(gradient)}")


def _describe_tuple(name: str, gradients: Sequence[Gradient]) -> str:
    shapes = format_tuple(map(format_entry, gradients), most=_MOST_ENTRIES)
    entries = count_noun(len(gradients), "entry", plural="entries")
    return f"None, or a tuple of {entries} in place of {name}: {shapes}"


def _describe_nones(gradients: Sequence[Gradient]) -> str:
    return " (with None where an entry is None)" if any(entry.status != "tensor" for entry in gradients) else ""


def _explain_number_of_values(message: str) -> Explanation | None:
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
            "What a hook returns replaces the tuple it got, entry by entry. A bare tensor is not a tuple: its first "
            "dimension counts as the number of entries. (torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py)"
        ),
        fix=(
            f"return None, or a tuple of {count_noun(int(expected), 'entry', plural='entries')}, with None where it "
            "got None"
        ),
    )


def _explain_refused_value(message: str) -> Explanation | None:
    """Explain what else PyTorch says about a value that a hook returned; None for any other message."""
    known = ((refused, found) for refused in _REFUSED if (found := re.search(refused.message, message)))
    refused, found = next(known, (None, None))
    if refused is None or found is None:
        return None
    given = escape(" ".join(found.groups()))
    return Explanation(
        "FXG109", "error", refused.headline.format(given), f"{refused.because} {refused.where}", refused.fix
    )


class _RefusedValue(NamedTuple):
    """``{}`` in the headline stands for what the pattern's group found in PyTorch's message."""

    message: str
    headline: str
    because: str
    where: str
    fix: str


_REFUSED = (
    _RefusedValue(
        r"expected tuple, but hook returned '(\w+)'",
        "a hook returned a {} where a tuple is expected",
        "What a hook on a node, or a non-full hook, returns replaces the tuple that it got.",
        _RETURNS_CPP,
        "return None, or a tuple with one entry for each of the tuple that it replaces",
    ),
    _RefusedValue(
        r"expected Variable, but hook returned '(\w+)'",
        "a hook returned a {} where a tensor is expected",
        "What a hook on a tensor returns replaces its gradient.",
        _RETURNS_CPP,
        "return None or one tensor",
    ),
    _RefusedValue(
        "can't replace a None gradient with a non-None value",
        "a hook returned a tensor in place of a gradient that is None",
        "PyTorch does not replace None by a tensor.",
        _RETURNS_CPP,
        "return None where the hook got None",
    ),
    _RefusedValue(
        r"hook '.*' has changed the (size|type|backend|device) of value",
        "a hook returned a gradient of another {}",
        "What a hook returns replaces a gradient, and must look like it.",
        _RETURNS_CPP,
        "return a tensor of the shape, dtype and device of what it replaces",
    ),
    _RefusedValue(
        "Backward hook for Modules where no input requires gradient should always return None",
        "a full hook returned a value, and no positional argument of its module requires grad",
        "PyTorch then calls the hook with None for each argument, and takes no other value from it.",
        _HOOKS_PY,
        "return None, change grad_output with register_full_backward_pre_hook, or make an argument require grad",
    ),
)


# FXG118

_FXG118 = Page(
    code="FXG118",
    title="A post-accumulate hook gets the parameter, not its gradient",
    what="""
    The gradients stay as they are, and the weights change in each backward; or backward raises "Tensor post accumulate
    grad hooks should return None".
    """,
    why="""
    register_post_accumulate_grad_hook calls the hook with the parameter, after its gradient was added to .grad. Gradients
    are not recorded then, so an operation that changes the argument in place changes the weight, without an error. What
    the hook returns is not used: PyTorch ignores the parameter itself and raises for any other value.
    """,
    source="torch/csrc/autograd/functions/accumulate_grad.cpp; torch/csrc/autograd/python_hook.cpp",
    example="""
    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> def average(grad):
    ...     grad /= 2
    >>> handle = weight.register_post_accumulate_grad_hook(average)
    >>> weight.sum().backward()
    >>> weight.tolist(), weight.grad.tolist()
    ([0.5, 0.5], [1.0, 1.0])
    """,
    fix="""
    Change parameter.grad inside the hook and return nothing. To change the gradient before it is added, use
    Tensor.register_hook.
    """,
)


def _explain_changed_leaf(subject: Subject) -> Iterator[Explanation]:
    """A post-accumulate hook changes the leaf that it gets in place, or returns what PyTorch refuses."""
    hook = subject.hook
    site = next((site for site in subject.sites if site.fires is not False), None)
    if site is None or hook.kind.arguments is not HookArguments.LEAF:
        return
    refused = [value.kind not in ("none", "argument", "unknown") for value in hook.returns]
    name, returned = name_hook_function(hook), " What it returns is ignored." if hook.may_return else ""
    if any(refused):
        raises = "backward raises" if all(refused) and site.fires else "backward may raise"
        because = f"PyTorch calls the hook with the leaf, and takes no value from it. {_RETURNS_CPP}"
        headline = f"{raises}: {name} returns a value after .grad is accumulated"
    elif hook.changes_leaf:
        because = (
            "A post-accumulate hook gets the leaf itself. The code of this one changes it in place and never reads "
            f".grad.{returned} (torch/csrc/autograd/functions/accumulate_grad.cpp)"
        )
        headline = f"{name} changes the weight that it gets, not its gradient"
    else:
        return
    yield Explanation(
        code="FXG118",
        severity="warning",
        headline=headline,
        because=because,
        fix="change .grad of what the hook gets, and return nothing",
        site=site,
    )


def _explain_refused_leaf(message: str) -> Explanation | None:
    """Explain the RuntimeError about what a post-accumulate hook returned; None for any other message."""
    if "post accumulate grad hooks should return None" not in message:
        return None
    return Explanation(
        code="FXG118",
        severity="error",
        headline="a post-accumulate hook returned a value",
        because=f"PyTorch calls the hook with the leaf, and takes no value from it. {_RETURNS_CPP}",
        fix="change .grad of what the hook gets, and return nothing",
    )


RULES = (
    Rule(_FXG109, hook_rules=(_explain_return,), error_rules=(_explain_number_of_values, _explain_refused_value)),
    Rule(_FXG118, hook_rules=(_explain_changed_leaf,), error_rules=(_explain_refused_leaf,)),
)

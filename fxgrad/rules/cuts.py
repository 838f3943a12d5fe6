"""Where a gradient gets lost at an operation of forward: why, in a sentence and in few words, and what to write instead."""

from __future__ import annotations

from typing import NamedTuple

from fxgrad.graph import FxNode
from fxgrad.graph.text import quote_code
from fxgrad.rules.data_flow import (
    begin_at,
    cannot_require_grad,
    end_at,
    is_custom_function,
    is_data_assigned,
    makes_leaf,
    may_carry_gradient,
    name_operation,
    picks_result,
)

ADVICE_ON_PARAMETERS = (
    "use the tensor itself, which torch.nn.functional and torch.func.functional_call take in place of a parameter"
)
_COPYING = ("torch.tensor", "torch.as_tensor", "torch.asarray", "new_tensor")
"""Functions that make a tensor of the values of others, without their history (torch/csrc/utils/tensor_new.cpp)."""
_GRAD = "torch.autograd.grad"
_INSTEAD = {
    "torch.normal": "`mean + std * torch.randn_like(std)` for `torch.normal(mean, std)`, `rsample()` for `sample()`",
    "torch.multinomial": "torch.nn.functional.gumbel_softmax for a draw from categories",
}
"""Draws of random numbers, and what draws such numbers with a derivative."""
_CONVERSIONS = ("__float__", "__int__", "__index__", "__complex__")
"""What float(x), int(x), range(x), math.sqrt(x) and torch.Tensor([x, y]) call."""
_ARRAYS = ("__array__", "numpy")


# The result does not require grad, or is a leaf


class _Cut(NamedTuple):
    """An operation at which gradients end: ``why`` as a sentence that begins after its line, ``in_short`` what it does in a few
    words, and what to change."""

    why: str
    in_short: str
    advice: str


def explain_cut(fx_node: FxNode) -> str:
    """Why autograd does not go back through an operation, though an argument of it required grad."""
    return f"{begin_at(fx_node.source)}, {_describe_cut(fx_node).why}"


def summarize_cut(fx_node: FxNode) -> str:
    """The same as `explain_cut` in a few words."""
    return f"{name_operation(fx_node)}{end_at(fx_node.source)} {_describe_cut(fx_node).in_short}"


def advise_on_cut(fx_node: FxNode) -> str:
    """What to change so that autograd goes back through the operation."""
    instead = _INSTEAD.get(fx_node.target)
    return _describe_cut(fx_node).advice if instead is None else f"write {instead}"


def _describe_cut(fx_node: FxNode) -> _Cut:
    name = name_operation(fx_node)
    if not fx_node.grad_enabled:
        what = "runs with gradients disabled"
        modes = "(no_grad, inference_mode or set_grad_enabled(False))"
        return _Cut(f"{name} {what} {modes}.", what, f"run {name} there with gradients enabled")
    if cannot_require_grad(fx_node):
        what = f"returns {fx_node.meta[0].dtype}"
        picked = f"a floating point result in place of {name}"
        use = picked if picks_result(fx_node) else f"the floating point values that {name} got"
        return _Cut(f"{name} {what}, which cannot require grad.", what, f"use {use}")
    if fx_node.target == _GRAD:
        what = "runs without create_graph=True"
        return _Cut(f"{name} {what}, so what it returns has no history.", what, f"pass create_graph=True to {name}")
    if fx_node.target in _COPYING:
        why = f"{name} copies the values that it gets, without their history."
        return _Cut(why, "copies values without their history", _advise_on_copy(fx_node))
    if is_custom_function(fx_node) and not makes_leaf(fx_node):
        why = (
            f"the result of {name} does not require grad: forward gives it to ctx.mark_non_differentiable, or what requires "
            "grad is inside a list, tuple or dict, where a Function does not look. (torch/autograd/function.py)"
        )
        advice = (
            f"pass tensors to {name} one by one, and mark no result as non-differentiable that is to pass a gradient"
        )
        return _Cut(why, "cuts it off", advice)
    leaf = f"{name} returns a new leaf: it requires grad and has no history."
    why = leaf if makes_leaf(fx_node) else f"the result of {name} does not require grad."
    return _Cut(why, "cuts it off", f"remove {name} there")


def _advise_on_copy(fx_node: FxNode) -> str:
    """What to write for a function that copies the values of tensors.

    >>> from fxgrad.graph import FxNode
    >>> stacked = FxNode("tensor", "call_function", "torch.tensor", "[mean, std]", (), None, (), None)
    >>> _advise_on_copy(stacked)
    'write `torch.stack([...])` for `torch.tensor([...])`'
    """
    called = fx_node.target if "." in fx_node.target else f"x.{fx_node.target}"
    given = fx_node.args_text.removeprefix(f"{fx_node.inputs[0]}, ") if fx_node.inputs else fx_node.args_text
    if given.startswith(("[[", "([", "[(")):
        return f"write torch.stack for {quote_code(called)}, of each inner list and of all of them"
    if given.startswith(("[", "(")):
        return f"write `torch.stack([...])` for {quote_code(f'{called}([...])')}"
    return f"use the tensor itself, or its clone(), for {quote_code(f'{called}(...)')}"


# Values that Python or numpy took


def explain_taken(fx_node: FxNode) -> str:
    """Where the value of an operation left torch."""
    taken = fx_node.taken[-1]
    function = quote_code(taken.function)
    return f"{begin_at(taken.source)}, {function} passes its value to Python, where autograd does not follow."


def advise_on_taken(fx_node: FxNode) -> str:
    """What to do so that the value stays in torch."""
    function = fx_node.taken[-1].function
    if function in _CONVERSIONS:
        return "keep it a tensor: torch.stack makes one tensor of several, and torch has the functions of math"
    if function in _ARRAYS:
        detached = "" if may_carry_gradient(fx_node) else f"{name_operation(fx_node)} and "
        return f"keep it a tensor, without {detached}{quote_code(function)}: torch has most functions of numpy"
    return f"use the tensor, without {quote_code(function)}"


# Values that are put into another tensor by its .data


def explain_written(fx_node: FxNode) -> str:
    """Why autograd does not follow values that forward puts into another tensor by its ``.data``."""
    name = name_operation(fx_node)
    how = f"{name} keeps" if is_data_assigned(fx_node) else f"{name} writes to the `.data` of a tensor: that keeps"
    return f"{begin_at(fx_node.source)}, {how} the values without their history. (torch/csrc/autograd/variable.cpp)"


def summarize_written(fx_node: FxNode) -> str:
    """The same in a few words."""
    at, name = end_at(fx_node.source), name_operation(fx_node)
    return f"{name}{at} keeps only values" if is_data_assigned(fx_node) else f"{name}{at} writes to `.data`"


def advise_on_written(fx_node: FxNode, *, to_parameter: bool) -> str:
    """What to do so that they keep their history."""
    if to_parameter:
        return ADVICE_ON_PARAMETERS
    if is_data_assigned(fx_node):
        return "use the tensor that is assigned, in place of the one whose `.data` it becomes"
    return "write to the tensor itself, without `.data`"

"""Recorded operations in sentences: what they are called, where they stand, and why their results require no grad."""

from __future__ import annotations

from fxgrad.graph import FxNode, Source
from fxgrad.graph.text import format_source, quote_code
from fxgrad.rules.data_flow import may_carry

_FLOATING = ("float", "bfloat", "complex")
_GETTER = "getattr"


def operation_name(fx_node: FxNode) -> str:
    """What the program called: `detach`, `linear`; an attribute as `.data`."""
    name = fx_node.target.rpartition(".")[2]
    attribute = fx_node.args_text.rpartition(", ")[2]
    return quote_code(f".{attribute}" if name == _GETTER and attribute else name)


def place(source: Source | None) -> str:
    """A line with its text, to begin a sentence with."""
    if source is None:
        return "On a line that is not known"
    return f"At {format_source(source)}" + (f", {quote_code(source.code)}" if source.code else "")


def at_line(source: Source | None) -> str:
    """A line, to end a phrase with."""
    return f" at {format_source(source)}" if source else ""


def is_not_floating(fx_node: FxNode) -> bool:
    """Whether none of the results can require grad, as they hold integers or truth values."""
    return bool(fx_node.meta) and not any(meta.dtype.startswith(_FLOATING) for meta in fx_node.meta)


def cut_in_short(fx_node: FxNode) -> str:
    """The same as `cut_sentence` in a few words."""
    at, name = at_line(fx_node.source), operation_name(fx_node)
    if not fx_node.grad_enabled:
        return f"{name}{at} runs with gradients disabled"
    if is_not_floating(fx_node):
        return f"{name}{at} returns {fx_node.meta[0].dtype}"
    return f"{name}{at} cuts it off"


def cut_sentence(fx_node: FxNode) -> str:
    """Why autograd does not go back through an operation, though an argument of it required grad."""
    at, name = place(fx_node.source), operation_name(fx_node)
    if not fx_node.grad_enabled:
        return f"{at}, {name} runs with gradients disabled (no_grad, inference_mode or set_grad_enabled(False))."
    if is_not_floating(fx_node):
        return f"{at}, {name} returns {fx_node.meta[0].dtype}, which cannot require grad."
    return f"{at}, the result of {name} does not require grad."


def cut_remedy(fx_node: FxNode) -> str:
    """What to change so that autograd goes back through the operation."""
    name = operation_name(fx_node)
    if not fx_node.grad_enabled:
        return f"run {name} there with gradients enabled"
    if is_not_floating(fx_node):
        return f"go on with the floating point values that {name} was given"
    return f"leave {name} out there"


def unpassed_sentence(fx_node: FxNode, them: str) -> str:
    """An operation that autograd goes back through, but not to this argument."""
    assert may_carry(fx_node)
    return f"{place(fx_node.source)}, {operation_name(fx_node)} uses {them} and gives {them} no gradient."


def taken_sentence(fx_node: FxNode) -> str:
    """Where the value of an operation left torch."""
    taken = fx_node.taken[-1]
    return f"{place(taken.source)}, {quote_code(taken.function)} gives its value to Python, which autograd does not follow."


def taken_remedy(fx_node: FxNode) -> str:
    """What to do so that the value stays in torch."""
    return f"go on with the tensor, without {quote_code(fx_node.taken[-1].function)}"

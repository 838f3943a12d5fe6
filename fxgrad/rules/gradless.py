"""Reentrant checkpoints, and custom Functions like them, none of whose arguments requires grad: backward comes to none."""

from __future__ import annotations

from typing import NamedTuple

from fxgrad.graph import BackwardGraph, FxNode, ModuleCall, Source
from fxgrad.graph.text import escape, quote_code
from fxgrad.rules.data_flow import begin_at, is_custom_function

_ASKING = "output.requires_grad_() in a forward hook of the module that makes it"


class Gradless(NamedTuple):
    """A reentrant checkpoint, or a ``function`` like one, none of whose arguments requires grad, and its line."""

    source: Source | None
    function: str | None = None

    @property
    def name(self) -> str:
        """What it is, after "the"."""
        return "reentrant checkpoint" if self.function is None else f"custom Function {quote_code(self.function)}"


def find_gradless(fx_node: FxNode) -> Gradless | None:
    """The checkpoint around an operation, or the Function that is called, if it gets nothing that requires grad."""
    if fx_node.gradless is not None:
        return Gradless(fx_node.gradless)
    return Gradless(fx_node.source, _name_function(fx_node)) if fx_node.unseen else None


def find_gradless_around(graph: BackwardGraph, call: ModuleCall) -> Gradless | None:
    """The same of a module call."""
    if call.gradless is None or call.checkpointed != "function":
        return None if call.gradless is None else Gradless(call.gradless)
    called = [each for each in graph.forward if each.source == call.gradless and is_custom_function(each)]
    return Gradless(called[0].source, _name_function(called[0])) if called else None


def _name_function(fx_node: FxNode) -> str:
    return fx_node.target.split(".")[-2]


def explain_gradless(gradless: Gradless) -> str:
    """Why a reentrant checkpoint, or a Function like one, gives no gradients, none of whose arguments requires grad."""
    begins = f"{begin_at(gradless.source)}, the {gradless.name} gets no tensor that requires grad"
    if gradless.function is not None:
        return (
            f"{begins}, so its result requires none, and backward does not come to it. Its forward uses the parameters "
            "without being given them: only its backward would bring them a gradient. "
            "(torch/csrc/autograd/python_function.cpp, THPFunction_apply)"
        )
    return (
        f"{begins} as an argument of its own (what its function closes over, and what is inside a container, does not "
        "count), so its result requires none, and backward does not come to it. PyTorch warns: `None of the inputs have "
        "requires_grad=True. Gradients will be None`. (torch/utils/checkpoint.py, CheckpointFunction)"
    )


def advise_on_gradless(gradless: Gradless) -> str:
    """What to do so that backward comes to it."""
    if gradless.function is not None:
        return f"make a floating point argument of `{escape(gradless.function)}.apply` require grad: requires_grad_() on it, or {_ASKING}"
    return (
        "pass use_reentrant=False to the checkpoint, or give it a floating point argument of its own that requires grad: "
        f"{_ASKING}, as enable_input_require_grads() does"
    )

"""The kinds of nodes and of hooks, each defined where it is listed. No torch."""

from __future__ import annotations

import enum


class NodeKind(enum.Enum):
    """What sort of autograd Node this is.

    ``FUNCTION``          generated from derivatives.yaml (``AddmmBackward0``), or hand-written C++ beside it
    ``CUSTOM_FUNCTION``   a Python ``torch.autograd.Function`` (or an operator registered from Python)
    ``ACCUMULATE_GRAD``   adds into the ``.grad`` of one leaf
    ``BACKWARD_HOOK``     ``BackwardHookFunctionBackward``, which a full module hook puts on inputs and outputs
    ``COPY_SLICES``       an in-place operation on a view, seen from its base
    ``COMPILED``          a region that torch.compile made (``CompiledFunctionBackward``)
    ``CHECKPOINT``        a reentrant ``torch.utils.checkpoint`` (``CheckpointFunctionBackward``)
    ``SCRIPTED``          a differentiable graph of TorchScript
    ``ERROR``             raises when backward reaches it (``NotImplemented``, ``DelayedError``, ``Error``)
    ``OPAQUE``            any other node: a C++ extension's, or one that only some build of torch has
    """

    FUNCTION = "function"
    CUSTOM_FUNCTION = "custom function"
    ACCUMULATE_GRAD = "accumulate grad"
    BACKWARD_HOOK = "backward hook"
    COPY_SLICES = "copy slices"
    COMPILED = "compiled"
    CHECKPOINT = "checkpoint"
    SCRIPTED = "scripted"
    ERROR = "error"
    OPAQUE = "opaque"

    @property
    def is_python(self) -> bool:
        """Whether backward of this node is Python code, whose gradients the graph does not decide."""
        return self in _PYTHON_KINDS


_PYTHON_KINDS = frozenset({NodeKind.CUSTOM_FUNCTION, NodeKind.BACKWARD_HOOK, NodeKind.COMPILED, NodeKind.CHECKPOINT})


class HookKind(enum.Enum):
    """One member per function that registers a hook; the value is that function's dotted name.

    ``MODULE_BACKWARD`` is the legacy, non-full module hook.
    """

    MODULE_BACKWARD = "Module.register_backward_hook"
    MODULE_FULL_BACKWARD = "Module.register_full_backward_hook"
    MODULE_FULL_BACKWARD_PRE = "Module.register_full_backward_pre_hook"
    GLOBAL_BACKWARD = "register_module_backward_hook"
    GLOBAL_FULL_BACKWARD = "register_module_full_backward_hook"
    GLOBAL_FULL_BACKWARD_PRE = "register_module_full_backward_pre_hook"
    TENSOR = "Tensor.register_hook"
    RETAIN_GRAD = "Tensor.retain_grad"
    POST_ACCUMULATE_GRAD = "Tensor.register_post_accumulate_grad_hook"
    NODE = "Node.register_hook"
    NODE_PRE = "Node.register_prehook"
    MULTI_GRAD = "register_multi_grad_hook"

    @property
    def is_module(self) -> bool:
        """Whether the hook is registered on a module, or on all of them."""
        return self in _MODULE_KINDS

    @property
    def is_legacy(self) -> bool:
        """Whether it is a non-full module hook, which sits on one autograd node."""
        return self in (HookKind.MODULE_BACKWARD, HookKind.GLOBAL_BACKWARD)

    @property
    def is_full(self) -> bool:
        """Whether it is a full module hook, which gets grad_input and grad_output of the module."""
        return self in (HookKind.MODULE_FULL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD)

    @property
    def is_full_pre(self) -> bool:
        """Whether it is a full module pre-hook, which gets grad_output of the module."""
        return self in (HookKind.MODULE_FULL_BACKWARD_PRE, HookKind.GLOBAL_FULL_BACKWARD_PRE)

    @property
    def is_global(self) -> bool:
        """Whether it is registered for every module at once."""
        return self in (HookKind.GLOBAL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD_PRE)


_MODULE_KINDS = frozenset(
    {
        HookKind.MODULE_BACKWARD,
        HookKind.MODULE_FULL_BACKWARD,
        HookKind.MODULE_FULL_BACKWARD_PRE,
        HookKind.GLOBAL_BACKWARD,
        HookKind.GLOBAL_FULL_BACKWARD,
        HookKind.GLOBAL_FULL_BACKWARD_PRE,
    }
)

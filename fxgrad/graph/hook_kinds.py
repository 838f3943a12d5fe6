"""The kinds of hooks: one table with a row for each function of PyTorch that registers a backward hook.

What is said of a kind anywhere in fxgrad is derived from its row. Sources relied on: torch/nn/modules/module.py and
torch/utils/hooks.py (module hooks), torch/_tensor.py (tensor hooks), torch/autograd/graph.py (node and multi-grad hooks),
torch/csrc/autograd/engine.cpp and torch/csrc/autograd/functions/accumulate_grad.cpp (when each is called).
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class HookOwner(enum.Enum):
    """What a hook is registered on; `Hook.owner` names it."""

    MODULE = "a module"
    EVERY_MODULE = "every module"
    TENSOR = "a tensor"
    LEAF = "a leaf tensor"
    NODE = "a node"
    TENSORS = "several tensors"


class HookArguments(enum.Enum):
    """What a hook is called with, and so what the tuples of its `HookSite` stand for."""

    NODE_GRADIENTS = "grad_input and grad_output of its node"
    NODE_GRAD_OUTPUT = "grad_output of its node"
    CALL_GRADIENTS = "grad_input and grad_output of the module call"
    CALL_GRAD_OUTPUT = "grad_output of the module call"
    GRADIENT = "one gradient"
    GRADIENTS = "one gradient per tensor"
    LEAF = "the leaf, once AccumulateGrad has run"


class HookMoment(enum.IntEnum):
    """When the engine calls a hook, in the order of the calls at one node.

    Tensor pre-hooks and retain_grad come before the engine decides whether it executes the node
    (``Engine::evaluate_function``), the others only where it does (``call_function``).
    """

    TENSOR_PRE_HOOK = enum.auto()
    RETAIN_GRAD = enum.auto()
    PRE_HOOK = enum.auto()
    POST_ACCUMULATE = enum.auto()
    POST_HOOK = enum.auto()


class _Row(NamedTuple):
    function: str
    short_name: str
    owner: HookOwner
    kept_in: str
    arguments: HookArguments
    moment: HookMoment
    replaces: str | None
    colour: str


class HookKind(enum.Enum):
    """One member per function that registers a hook; the value is that function's dotted name.

    ``MODULE_BACKWARD``           the non-full module hook: on the grad_fn of the first tensor that the module returns
    ``MODULE_FULL_BACKWARD``      on the BackwardHookFunction node on the inputs; on the outputs if no input requires grad
    ``MODULE_FULL_BACKWARD_PRE``  on the BackwardHookFunction node on the outputs
    ``GLOBAL_...``                the same three for every module
    ``TENSOR``                    on the gradient of one tensor
    ``RETAIN_GRAD``               stores that gradient in the tensor's ``.grad``; has no function of the user
    ``POST_ACCUMULATE_GRAD``      after AccumulateGrad has added into the leaf's ``.grad``
    ``NODE``, ``NODE_PRE``        after and before a node
    ``MULTI_GRAD``                when the gradients of several tensors have arrived, or the first of them

    Each member has the columns of its row:

    ``function``    the value: the function that registers it
    ``short_name``  the kind in a word or two
    ``owner``       what it is registered on
    ``kept_in``     the Python expression under which PyTorch keeps it, of the ``module``, ``tensor``, ``node``, or the
                    ``handle`` that registering returned
    ``arguments``   what it is called with
    ``moment``      when the engine calls it, at its node
    ``replaces``    what a value that it returns takes the place of; None: the value is not used
    ``colour``      its colour in pictures: a name in the palette of the theme
    """

    function: str
    short_name: str
    owner: HookOwner
    kept_in: str
    arguments: HookArguments
    moment: HookMoment
    replaces: str | None
    colour: str

    MODULE_BACKWARD = _Row(
        function="Module.register_backward_hook",
        short_name="non-full",
        owner=HookOwner.MODULE,
        kept_in="module._backward_hooks",
        arguments=HookArguments.NODE_GRADIENTS,
        moment=HookMoment.POST_HOOK,
        replaces="grad_input",
        colour="vermillion",
    )
    MODULE_FULL_BACKWARD = _Row(
        function="Module.register_full_backward_hook",
        short_name="full",
        owner=HookOwner.MODULE,
        kept_in="module._backward_hooks",
        arguments=HookArguments.CALL_GRADIENTS,
        moment=HookMoment.POST_HOOK,
        replaces="grad_input",
        colour="blue",
    )
    MODULE_FULL_BACKWARD_PRE = _Row(
        function="Module.register_full_backward_pre_hook",
        short_name="full pre",
        owner=HookOwner.MODULE,
        kept_in="module._backward_pre_hooks",
        arguments=HookArguments.CALL_GRAD_OUTPUT,
        moment=HookMoment.POST_HOOK,
        replaces="grad_output",
        colour="sky blue",
    )
    GLOBAL_BACKWARD = _Row(
        function="register_module_backward_hook",
        short_name="global non-full",
        owner=HookOwner.EVERY_MODULE,
        kept_in="torch.nn.modules.module._global_backward_hooks",
        arguments=HookArguments.NODE_GRADIENTS,
        moment=HookMoment.POST_HOOK,
        replaces="grad_input",
        colour="dark vermillion",
    )
    GLOBAL_FULL_BACKWARD = _Row(
        function="register_module_full_backward_hook",
        short_name="global full",
        owner=HookOwner.EVERY_MODULE,
        kept_in="torch.nn.modules.module._global_backward_hooks",
        arguments=HookArguments.CALL_GRADIENTS,
        moment=HookMoment.POST_HOOK,
        replaces="grad_input",
        colour="dark blue",
    )
    GLOBAL_FULL_BACKWARD_PRE = _Row(
        function="register_module_full_backward_pre_hook",
        short_name="global full pre",
        owner=HookOwner.EVERY_MODULE,
        kept_in="torch.nn.modules.module._global_backward_pre_hooks",
        arguments=HookArguments.CALL_GRAD_OUTPUT,
        moment=HookMoment.POST_HOOK,
        replaces="grad_output",
        colour="light sky blue",
    )
    TENSOR = _Row(
        function="Tensor.register_hook",
        short_name="tensor",
        owner=HookOwner.TENSOR,
        kept_in="tensor._backward_hooks",
        arguments=HookArguments.GRADIENT,
        moment=HookMoment.TENSOR_PRE_HOOK,
        replaces="the gradient",
        colour="orange",
    )
    RETAIN_GRAD = _Row(
        function="Tensor.retain_grad",
        short_name="retain_grad",
        owner=HookOwner.TENSOR,
        kept_in="tensor.retains_grad",
        arguments=HookArguments.GRADIENT,
        moment=HookMoment.RETAIN_GRAD,
        replaces=None,
        colour="yellow",
    )
    POST_ACCUMULATE_GRAD = _Row(
        function="Tensor.register_post_accumulate_grad_hook",
        short_name="post-accumulate",
        owner=HookOwner.LEAF,
        kept_in="tensor._post_accumulate_grad_hooks",
        arguments=HookArguments.LEAF,
        moment=HookMoment.POST_ACCUMULATE,
        replaces=None,
        colour="bluish green",
    )
    NODE = _Row(
        function="Node.register_hook",
        short_name="node",
        owner=HookOwner.NODE,
        kept_in="handle.hooks_dict_ref()",
        arguments=HookArguments.NODE_GRADIENTS,
        moment=HookMoment.POST_HOOK,
        replaces="grad_input",
        colour="reddish purple",
    )
    NODE_PRE = _Row(
        function="Node.register_prehook",
        short_name="node pre",
        owner=HookOwner.NODE,
        kept_in="handle.hooks_dict_ref()",
        arguments=HookArguments.NODE_GRAD_OUTPUT,
        moment=HookMoment.PRE_HOOK,
        replaces="grad_output",
        colour="dark reddish purple",
    )
    MULTI_GRAD = _Row(
        function="register_multi_grad_hook",
        short_name="multi-grad",
        owner=HookOwner.TENSORS,
        kept_in="tensor._backward_hooks",
        arguments=HookArguments.GRADIENTS,
        moment=HookMoment.TENSOR_PRE_HOOK,
        replaces=None,
        colour="black",
    )

    def __new__(cls, *row: object) -> HookKind:
        """Make a member of a row: enum passes the entries of a tuple one by one."""
        member = object.__new__(cls)
        for name, column in zip(_Row._fields, row, strict=True):
            setattr(member, name, column)
        member._value_ = member.function
        return member

    @property
    def is_module(self) -> bool:
        """Whether the hook is registered on a module, or on all of them."""
        return self.owner in (HookOwner.MODULE, HookOwner.EVERY_MODULE)

    @property
    def is_global(self) -> bool:
        """Whether it is registered for every module at once."""
        return self.owner is HookOwner.EVERY_MODULE

    @property
    def is_legacy(self) -> bool:
        """Whether it is a non-full module hook, which sits on one autograd node."""
        return self.is_module and self.arguments is HookArguments.NODE_GRADIENTS

    @property
    def is_full(self) -> bool:
        """Whether it is a full module hook, which gets grad_input and grad_output of the module."""
        return self.arguments is HookArguments.CALL_GRADIENTS

    @property
    def is_full_pre(self) -> bool:
        """Whether it is a full module pre-hook, which gets grad_output of the module."""
        return self.arguments is HookArguments.CALL_GRAD_OUTPUT

    @property
    def on_several_tensors(self) -> bool:
        """Whether one hook is registered on several tensors, and waits for their gradients."""
        return self.owner is HookOwner.TENSORS

    @property
    def skips_leaves(self) -> bool:
        """Whether PyTorch registers nothing for a leaf: ``Tensor.retain_grad`` returns at once."""
        return self.moment is HookMoment.RETAIN_GRAD

    @property
    def is_called_for_leaf(self) -> bool:
        """Whether it is registered on one tensor, and called also if that is a leaf."""
        return self.owner in (HookOwner.TENSOR, HookOwner.LEAF) and not self.skips_leaves

    @property
    def gets_one_gradient(self) -> bool:
        """Whether it gets the gradient of one tensor, not a tuple."""
        return self.arguments is HookArguments.GRADIENT

    @property
    def gets_grad_input(self) -> bool:
        """Whether a hook of this kind is called with grad_input, besides grad_output."""
        return self.arguments in (HookArguments.NODE_GRADIENTS, HookArguments.CALL_GRADIENTS)

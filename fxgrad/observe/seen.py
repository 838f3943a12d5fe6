"""What the recorder sees of one run, still alive: tensors, function calls and module calls.

Records are made of these as soon as the run is over (`fxgrad.observe.observation`); nothing keeps them after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.graph import HookKind, Path, TensorMeta
from fxgrad.observe.frames import Frame

next_sequence_nr: Callable[[], int] = torch._C._autograd._get_sequence_nr

Origin = tuple[AutogradNode, int]
"""A node, and which of its outputs a tensor is."""

Producer = tuple[int, int]
"""A function call, by its number, and which of the tensors in its result."""


def origin_of(tensor: torch.Tensor) -> Origin | None:
    """The grad_fn and output_nr of a tensor; None for a leaf and where no grad is required.

    None too for a view that a custom Function returned and whose memory has changed since, which has none any more:
    reading it raises (``handle_view_on_rebase`` in torch/csrc/autograd/variable.cpp).
    """
    try:
        node = tensor.grad_fn
    except RuntimeError:
        return None
    return None if node is None else (node, tensor.output_nr)


def autocast_now() -> tuple[str, torch.dtype, bool, bool] | None:
    """Device type, dtype, enabled and cache flag of the autocast region that is entered; None outside of any."""
    if not torch._C._is_any_autocast_enabled():
        return None
    device = next(kind for kind in _AUTOCAST_DEVICES if torch.is_autocast_enabled(kind))
    return device, torch.get_autocast_dtype(device), True, torch.is_autocast_cache_enabled()


_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "privateuseone")


class SeenTensor:
    """A tensor at one moment of the run. It is held, so that its id stays its own.

    ``stale``: reading ``grad_fn`` of a view whose base was changed in place *makes* a node, so that had to wait.
    """

    __slots__ = ("is_leaf", "origin", "path", "producer", "requires_grad", "stale", "tensor", "version")

    def __init__(self, path: Path, tensor: torch.Tensor, producer: Producer | None, *, stale: bool) -> None:
        self.path = path
        self.tensor = tensor
        self.producer = producer
        self.requires_grad = tensor.requires_grad
        self.is_leaf = tensor.is_leaf
        self.stale = stale and self.requires_grad and not self.is_leaf
        self.version = tensor._version if self.stale else None
        self.origin = None if self.stale or not self.requires_grad else origin_of(tensor)


class Earlier(NamedTuple):
    """A tensor among the arguments of a function call, and what had produced it before the call."""

    tensor: torch.Tensor
    producer: Producer | None


class SeenFunctionCall:
    """One call of a torch function, or of a custom Function's ``apply`` (``target`` is then the class).

    ``changes`` are the arguments that it changed in place; ``aliases`` says for each of ``results`` which argument it
    shares its memory and version counter with.
    """

    __slots__ = (
        "aliases",
        "args",
        "autocast",
        "changes",
        "frames",
        "grad_enabled",
        "in_loss",
        "kwargs",
        "metas",
        "module_call",
        "origins",
        "result_type",
        "results",
        "target",
        "window",
    )

    def __init__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.results: list[tuple[Path, torch.Tensor]] = []
        self.changes: list[Earlier] = []
        self.aliases: list[Earlier | None] = []
        self.grad_enabled = torch.is_grad_enabled()
        self.result_type: type = type(None)
        self.origins: list[tuple[AutogradNode, int, int | None]] = []
        self.metas: list[TensorMeta] | None = None
        self.window = (0, 0)
        self.frames: tuple[Frame, ...] = ()
        self.module_call: SeenModuleCall | None = None
        self.in_loss = False
        self.autocast = autocast_now()


class SeenModuleCall:
    """One call of ``Module._call_impl``."""

    __slots__ = (
        "args",
        "backward_hook",
        "checkpointed",
        "completed",
        "end",
        "finished",
        "forward_start",
        "frames",
        "grad_enabled",
        "hooks",
        "in_loss",
        "input_hook_node",
        "inputs",
        "kwargs",
        "legacy_reason",
        "legacy_tensor",
        "module",
        "number",
        "on_source_line",
        "output_hook_node",
        "outputs",
        "parent",
        "result",
        "start",
        "thread",
        "training",
    )

    def __init__(self, module: nn.Module, parent: SeenModuleCall | None, number: int) -> None:
        self.module = module
        self.parent = parent
        self.number = number
        self.start = self.end = self.forward_start = next_sequence_nr()
        self.thread = threading.get_ident()
        self.training = module.training
        self.grad_enabled = torch.is_grad_enabled()
        self.hooks = snapshot_of_hooks(module)
        self.completed = False
        self.finished = 0
        self.in_loss = False
        self.checkpointed: str | None = None
        self.on_source_line = True
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.inputs: list[SeenTensor] = []
        self.result: Any = None
        self.outputs: list[SeenTensor] = []
        self.legacy_tensor: torch.Tensor | None = None
        self.legacy_reason: str | None = None
        self.backward_hook: BackwardHook | None = None
        self.input_hook_node: AutogradNode | None = None
        self.output_hook_node: AutogradNode | None = None
        self.frames: tuple[Frame, ...] = ()


def snapshot_of_hooks(module: nn.Module) -> list[tuple[HookKind, Any, Any]]:
    """(kind, key, function) of the backward hooks that a call of `module` takes along, in the order they will run.

    As ``Module._get_backward_pre_hooks`` and ``_get_backward_hooks`` do: of each kind, global ones first.
    """
    tables = [
        (HookKind.GLOBAL_FULL_BACKWARD_PRE, module_hooks._global_backward_pre_hooks),
        (HookKind.MODULE_FULL_BACKWARD_PRE, module._backward_pre_hooks),
        (global_backward_kind(), module_hooks._global_backward_hooks),
        (backward_kind(module), module._backward_hooks),
    ]
    return [(kind, key, hook) for kind, table in tables for key, hook in table.items() if kind is not None]


def backward_kind(module: nn.Module) -> HookKind | None:
    """What ``module._backward_hooks`` holds: full or legacy hooks; None before the first was registered."""
    full = module._is_full_backward_hook
    return None if full is None else HookKind.MODULE_FULL_BACKWARD if full else HookKind.MODULE_BACKWARD


def global_backward_kind() -> HookKind | None:
    """What ``_global_backward_hooks`` holds: full or legacy hooks; None before the first was registered."""
    full = module_hooks._global_is_full_backward_hook
    return None if full is None else HookKind.GLOBAL_FULL_BACKWARD if full else HookKind.GLOBAL_BACKWARD


def legacy_tensor(result: Any) -> tuple[torch.Tensor | None, str | None]:
    """The tensor in a module's result whose grad_fn a non-full hook lands on, or why there is none.

    The loop of ``Module._call_impl``: the first tensor among a dict's values, else element 0, until that is a tensor.
    """
    value = result
    entered: set[int] = set()
    while not isinstance(value, torch.Tensor):
        if isinstance(value, str) or id(value) in entered:
            return None, "the result leads to a str or to itself, and PyTorch's search for its first tensor never ends"
        entered.add(id(value))
        if isinstance(value, dict):
            tensors = [member for member in value.values() if isinstance(member, torch.Tensor)]
            if not tensors:
                return None, "the result is a dict without a tensor among its values (StopIteration in forward)"
            value = tensors[0]
        else:
            try:
                value = value[0]
            except (TypeError, IndexError, KeyError) as error:
                return None, f"the result has no first element to look into ({type(error).__name__} in forward)"
    return value, None

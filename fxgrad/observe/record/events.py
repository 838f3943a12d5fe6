"""What the recorder sees of one run, still alive: tensors, function calls and module calls.

Records are made of these as soon as the run is over (`fxgrad.observe.observation`); nothing keeps them after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.graph import HookKind, Path, TensorMeta
from fxgrad.graph.records import Checkpoint
from fxgrad.observe.record.compiled_code import CompiledCode
from fxgrad.observe.record.frames import NO_STACK, Stack
from fxgrad.observe.record.scripts import ScriptRun
from fxgrad.observe.record.tensors import Origin, Route, read_origin

next_sequence_nr: Callable[[], int] = torch._C._autograd._get_sequence_nr
_are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active

Producer = tuple[int, int]
"""A function call, by its number, and which of the tensors in its result."""

_LONGEST_SEARCH = 1_000
NEVER_ENDS = "the result contains a str or itself, and PyTorch's search for its first tensor never ends"
"""Why a non-full hook finds no tensor in a result; a forward with such a hook does not return."""

# Tensors


class TensorSnapshot:
    """A tensor at one moment of the run. It is held, so that its id stays its own.

    Reading ``grad_fn`` of a view whose base was changed in place *makes* a node, so for a view that may be in that
    state it waits until `settle`; until then ``late`` holds the version it had. ``meta`` describes the tensor at that
    moment: an in-place operation may give it another shape later.
    """

    __slots__ = ("late", "meta", "origin", "path", "producer", "requires_grad", "tensor")

    def __init__(
        self, path: Path, tensor: torch.Tensor, producer: Producer | None, meta: TensorMeta, *, stale: bool
    ) -> None:
        self.meta = meta
        self.path = path
        self.tensor = tensor
        self.producer = producer
        self.requires_grad = tensor.requires_grad
        self.late: int | None = None
        self.origin: Origin | None = None
        if self.requires_grad:
            if stale:
                self.late = tensor._version
            else:
                self.origin = read_origin(tensor)

    def settle(self) -> None:
        """Read what had to wait, now that the run is over. A tensor that has changed since stays without an origin."""
        if self.late is not None and self.tensor._version == self.late:
            self.late = None
            self.origin = read_origin(self.tensor)

    @property
    def is_leaf(self) -> bool:
        """Whether no function had made it."""
        return self.origin is None and self.late is None


# Function calls


class OpArgument(NamedTuple):
    """A tensor among the arguments of a function call: what had produced it before the call, and its version then."""

    tensor: torch.Tensor
    producer: Producer | None
    version: int | None


class TensorList(NamedTuple):
    """A list of tensors among the arguments of a function call, and what each of them looked like then.

    ``name`` is None where it was passed by position.
    """

    name: str | None
    members: tuple[OpArgument, ...]
    metas: tuple[TensorMeta, ...]


class OpResult(NamedTuple):
    """A tensor in what a function returned: how a program reaches it there, and what it was like then.

    ``stride`` is None where it has none that could be read. ``shares`` is the argument whose memory and version counter it
    shares.
    """

    route: Route
    tensor: torch.Tensor
    meta: TensorMeta
    stride: tuple[int, ...] | None
    requires_grad: bool
    shares: OpArgument | None


class OpEvent:
    """One call of a torch function, or of a custom Function's ``apply`` (``target`` is then the class).

    ``args``, ``kwargs``  with copies of the containers, which may change later
    ``window``  autograd's sequence number before the call and after it
    ``results``  the tensors in what it returned
    ``changes``  the arguments that it changed in place
    ``lists``  the lists of tensors among the arguments, of a call that made nodes
    ``nodes``  the nodes that its results and the tensors that it changed had
    ``grad_enabled``  the grad mode that it ran in
    ``differentiable``  the grad mode of the program around, where a reentrant checkpoint has disabled it meanwhile
        (torch/utils/checkpoint.py: CheckpointFunction runs its forward once without)
    ``gradless``  where the reentrant checkpoint around was called, if none of its arguments requires grad
    ``unseen``  of a custom Function whose backward starts another one: the leaves that its forward used without being given
        them, if none of its arguments requires grad
    ``script``  which operators a scripted function ran
    """

    __slots__ = (
        *("args", "changes", "differentiable", "grad_enabled", "gradless", "in_loss", "kwargs", "lists"),
        "module_call",
        *("nodes", "results", "script", "stack", "target", "unseen", "window"),
    )

    def __init__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.grad_enabled = self.differentiable = torch.is_grad_enabled()
        self.window = (0, 0)
        self.results: list[OpResult] = []
        self.changes: list[OpArgument] = []
        self.lists: Sequence[TensorList] = ()
        self.nodes: list[AutogradNode] = []
        self.stack = NO_STACK
        self.module_call: ModuleEvent | None = None
        self.in_loss = False
        self.gradless: Stack | None = None
        self.unseen: Sequence[torch.Tensor] = ()
        self.script: ScriptRun | None = None


class HostRead(NamedTuple):
    """A method that gave a tensor's value to Python: its name, the tensor, the line, and the call that was running."""

    function: str
    tensor: OpArgument
    stack: Stack
    call: ModuleEvent | None


# Module calls


class ModuleEvent:
    """One call of ``Module._call_impl``.

    ``number``  its rank among the module calls, in the order in which they began; ``finished`` in that in which they ended
    ``start``, ``end``  autograd's sequence numbers around it
    ``given``  the arguments that it was called with; ``args``, ``kwargs`` those that forward got, ``inputs`` their tensors
    ``hooks``  the backward hooks that it captured
    ``compiled``  what Dynamo has compiled of the functions around it, if it captured hooks
    ``checkpointed``  the kind of checkpoint around it; ``gradless`` as of an `OpEvent`, or where
        such a Function was called
    ``transforms``  the transforms of torch.func around it
    ``legacy``  the tensor whose grad_fn a non-full hook lands on; ``legacy_reason`` why there is none
    ``backward_hook``  what a full hook set up; ``input_hook_node`` and ``output_hook_node`` the nodes that it put there
    """

    completed = False
    finished = 0
    checkpointed: Checkpoint | None = None
    gradless: Stack | None = None
    compiled: tuple[CompiledCode, ...] = ()
    args: tuple[Any, ...] = ()
    inputs: Sequence[TensorSnapshot] = ()
    result: Any = None
    outputs: Sequence[TensorSnapshot] = ()
    legacy: TensorSnapshot | None = None
    legacy_reason: str | None = None
    backward_hook: BackwardHook | None = None
    input_hook_node: AutogradNode | None = None
    output_hook_node: AutogradNode | None = None

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        parent: ModuleEvent | None,
        number: int,
        stack: Stack,
    ) -> None:
        self.module = module
        self.given = args, kwargs
        self.kwargs = kwargs
        self.parent = parent
        self.number = number
        self.stack = stack
        self.start = self.end = next_sequence_nr()
        self.training = module.training
        self.grad_enabled = torch.is_grad_enabled()
        self.hooks = snapshot_hooks(module)
        self.transforms = _list_transforms() if _are_transforms_active() else ()


def _list_transforms() -> tuple[str, ...]:
    """The transforms of torch.func that are running, outermost first (torch/_functorch/pyfunctorch.py)."""
    interpreters = torch._C._functorch.get_interpreter_stack() or ()
    return tuple([interpreter.key().name.lower() for interpreter in interpreters])


class CarriedHook(NamedTuple):
    """A backward hook that a call captured: ``table[number]`` was ``function`` then."""

    kind: HookKind
    number: int
    function: Any
    table: Any


def snapshot_hooks(module: nn.Module) -> list[CarriedHook]:
    """The backward hooks that a call of `module` captures, in the order in which they will run.

    As ``Module._get_backward_pre_hooks`` and ``_get_backward_hooks`` do: of each kind, global ones first.
    """
    pre, own = module._backward_pre_hooks, module._backward_hooks
    global_pre, global_own = module_hooks._global_backward_pre_hooks, module_hooks._global_backward_hooks
    if not (pre or own or global_pre or global_own):
        return []
    tables = (
        (HookKind.GLOBAL_FULL_BACKWARD_PRE, global_pre),
        (HookKind.MODULE_FULL_BACKWARD_PRE, pre),
        (find_global_backward_kind(), global_own),
        (find_backward_kind(module), own),
    )
    return [
        CarriedHook(kind, number, function, table)
        for kind, table in tables
        if table and kind
        for number, function in table.items()
    ]


def find_backward_kind(module: nn.Module) -> HookKind | None:
    """As which kind a call captures ``module._backward_hooks``: full or legacy hooks; None: it captures none of them.

    It captures none before the first was registered, where somebody set the flag back, and on what torch.compile returns.
    """
    full = module._is_full_backward_hook
    return HookKind.MODULE_FULL_BACKWARD if full is True else HookKind.MODULE_BACKWARD if full is False else None


def find_global_backward_kind() -> HookKind | None:
    """As which kind a call captures ``_global_backward_hooks``: full or legacy hooks; None: it captures none of them."""
    full = module_hooks._global_is_full_backward_hook
    return HookKind.GLOBAL_FULL_BACKWARD if full is True else HookKind.GLOBAL_BACKWARD if full is False else None


def find_legacy_tensor(result: Any) -> tuple[torch.Tensor | None, str | None]:
    """The tensor in a module's result whose grad_fn a non-full hook lands on, or why there is none.

    The loop of ``Module._call_impl``: the first tensor among a dict's values, else element 0, until that is a tensor.
    """
    value = result
    entered: list[Any] = []
    while not isinstance(value, torch.Tensor):
        if isinstance(value, str) or len(entered) > _LONGEST_SEARCH or any(value is earlier for earlier in entered):
            return None, NEVER_ENDS
        entered.append(value)
        try:
            value = next(filter(_is_tensor, value.values())) if isinstance(value, dict) else value[0]
        except StopIteration:
            return None, "the result is a dict without a tensor value (StopIteration in forward)"
        except Exception as error:  # whatever the user's class makes of [0]
            return None, f"the result has no first element to look into ({type(error).__name__} in forward)"
    return value, None


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)

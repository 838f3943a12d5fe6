"""Records the calls of torch functions: what each got, what it returned, and which nodes it made.

Sources relied on: torch/overrides.py (TorchFunctionMode), torch/csrc/autograd/variable.cpp (views),
torch/autograd/function.py (Function.apply).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.utils import _device
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import CheckpointFunction

from fxgrad.graph import Path, TensorMeta
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import (
    HostRead,
    ModuleEvent,
    OpArgument,
    OpEvent,
    OpResult,
    Producer,
    TensorList,
    TensorSnapshot,
    next_sequence_nr,
)
from fxgrad.observe.record.frames import NO_STACK, Stack, read_stack
from fxgrad.observe.record.scripts import ScriptRun, is_optimized_script
from fxgrad.observe.record.tensors import (
    MetaTable,
    Origin,
    Route,
    find_tensor_routes,
    find_tensors,
    is_leaf,
    may_have_history,
    read_origin,
    read_stride,
)

_WITHOUT_EFFECT = frozenset({"retain_grad", "__get__", "__delete__"})
"""Functions that return None and whose call changes no value."""
ASKS = "__bool__"
_GIVE_VALUES = frozenset(
    [ASKS, "__array__", "__complex__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"]
)
"""Methods that give a tensor's values to Python, out of autograd's sight (torch/_tensor.py)."""
_PLAIN_ATTRIBUTES = frozenset({"device", "dtype", "is_leaf", "is_nested", "layout", "ndim", "requires_grad", "shape"})
_PLAIN_METHODS = frozenset({"dim", "is_contiguous", "is_floating_point", "numel", "size", "stride"})
"""What models ask of tensors all the time, and what holds no tensor: there is nothing to record."""
_TENSORS = frozenset({torch.Tensor, nn.Parameter})
_ATOMS = frozenset({int, bool, float, str, torch.Size, torch.dtype, torch.device, type(None)})
"""Types of values that hold no tensor."""
_CONTAINERS = frozenset({list, tuple, dict})
_DEEPEST_ARGUMENT = 20
_RETAIN_GRAD = torch.Tensor.retain_grad
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "privateuseone")
_MODES = (
    "it switches autocast",
    "it switches inference mode",
    "it changes the default dtype",
    "it changes the default device",
    "it sets the random state",
)
"""What to say of a run that changes what `_read_modes` reads, in its order."""

# Looked up once: they run at each call, and some are monkey-patched while a forward is recorded.
_DisableTorchFunction = torch._C.DisableTorchFunction
_are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_is_any_autocast_enabled: Callable[[], bool] = torch._C._is_any_autocast_enabled
_is_inference_mode_enabled = torch.is_inference_mode_enabled
_get_default_dtype = torch.get_default_dtype
_count_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_initial_seed = torch.default_generator.initial_seed


class Cursor:
    """Where in a run the recorder is.

    ``call``  the module call that is running
    ``limit``  the frame that it was called from, and ``stack`` the user's frames from there on outwards
    ``region``  the frame that called the outermost module around that was compiled in place
    ``checkpoints``  the number of reentrant checkpoints around, and ``grad_outside`` the grad mode around them
    ``gradless``  where the outermost reentrant checkpoint around was called, if none of its arguments requires grad
    ``nesting``  the Function around whose backward may run its forward again
    ``in_loss``  whether the model's forward is over
    """

    __slots__ = ("call", "checkpoints", "grad_outside", "gradless", "in_loss", "limit", "nesting", "region", "stack")

    def __init__(self) -> None:
        self.call: ModuleEvent | None = None
        self.limit: FrameType | None = None
        self.region: FrameType | None = None
        self.stack: Stack = NO_STACK
        self.checkpoints = 0
        self.grad_outside = True
        self.gradless: Stack | None = None
        self.nesting: NestingCall | None = None
        self.in_loss = False


class TensorLog:
    """The tensors of a run, by identity: which call made each, and which came from elsewhere.

    Each is kept alive by whoever saw it. ``kept`` are the tensors that were known before the run. ``foreign`` are those
    that came from elsewhere with a history, which is not the recorded run's, like that of ``inputs``, which were known
    before it. ``hooks`` are the hooks that were on them then, as `hooks_on` finds them: what is changed in place later
    leaves its hooks behind, on the node that it had. (Of a view only after the run: reading its node could make one.)
    """

    def __init__(
        self, known: Iterable[torch.Tensor], metas: MetaTable, hooks_on: Callable[[torch.Tensor], Iterable[Any]]
    ) -> None:
        self.foreign: list[TensorSnapshot] = []
        self.hooks: list[Any] = []
        self.producers: dict[int, Producer] = {}
        self.kept = list(known)
        self.known = {id(tensor) for tensor in self.kept}
        self._metas = metas
        self._hooks_on = hooks_on
        self._first: dict[int, tuple[TensorMeta, int | None]] = {}
        self._versions: dict[int, int] = {}
        for tensor in self.kept:
            self._note_first(tensor)
        self.inputs = [self.snapshot((), tensor) for tensor in self.kept if may_have_history(tensor)]

    def _note_first(self, tensor: torch.Tensor) -> None:
        self._first[id(tensor)] = self._metas.of_tensor(tensor), None if tensor.is_inference() else tensor._version

    def add_constant(self, tensor: torch.Tensor) -> None:
        """Note a tensor that the recorded run has not made, before it is used."""
        self.known.add(id(tensor))
        self._note_first(tensor)
        if may_have_history(tensor):
            self.foreign.append(self.snapshot((), tensor))
            if not tensor._is_view():
                self.hooks.extend(self._hooks_on(tensor))

    def add_result(self, tensor: torch.Tensor, producer: Producer) -> Origin | None:
        """Note that a function returned a tensor; its origin, where reading that makes no node."""
        was_known = id(tensor) in self.known
        self.known.add(id(tensor))
        self.producers[id(tensor)] = producer
        if not tensor.requires_grad:
            return None
        if tensor._is_view():
            if was_known and self.is_stale(tensor):
                return None
            self.note_fresh(tensor)
        return read_origin(tensor)

    def note_fresh(self, view: torch.Tensor) -> None:
        """Note that a view knows its grad_fn now: it was just made, or changed itself."""
        if not view.is_inference():
            self._versions[id(view)] = view._version

    def is_stale(self, tensor: torch.Tensor) -> bool:
        """Whether reading ``grad_fn`` may make a node: a view whose base may have changed since it was last seen."""
        if not tensor._is_view() or tensor.is_inference():
            return False
        return self._versions.get(id(tensor)) != tensor._version

    def snapshot(self, path: Path, tensor: torch.Tensor) -> TensorSnapshot:
        """A tensor as it is at this moment."""
        producer = self.producers.get(id(tensor))
        return TensorSnapshot(path, tensor, producer, self._metas.of_tensor(tensor), stale=self.is_stale(tensor))

    def first_meta(self, tensor: torch.Tensor) -> TensorMeta:
        """The tensor as it was when it was first known; as it is now, where a recorded function made it."""
        first = self._first.get(id(tensor))
        return self._metas.of_tensor(tensor) if first is None else first[0]

    def has_changed(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that no recorded function made was changed in place since it was first known."""
        _, version = self._first.get(id(tensor), (None, None))
        return version is not None and tensor._version != version


class OpRecorder:
    """The function calls of one run, in order.

    ``events``  the recorded calls
    ``retained``  in which module call, and at which sequence number, a tensor was told to retain its gradient, by identity
    ``retained_inside``  the tensors that were told so inside of a recorded call
    ``host_reads``  where Python took the values of tensors, or asked whether they are true
    ``nesting``  the calls of Functions whose backward may run their forward again
    ``refusal``  why the calls alone do not tell what the run computed; None where they do
    ``paused``  nothing is recorded while it is set
    ``failed``  the tensors among the arguments of the last call that raised

    `nests` says whether the backward of a Function starts a backward of its own; None where it may.
    """

    def __init__(self, log: TensorLog, metas: MetaTable, cursor: Cursor, nests: Callable[[type], bool | None]) -> None:
        self.events: list[OpEvent] = []
        self.retained: dict[int, tuple[ModuleEvent | None, int]] = {}
        self.retained_inside: list[torch.Tensor] = []
        self.host_reads: list[HostRead] = []
        self.nesting: list[NestingCall] = []
        self.refusal: str | None = None
        self.paused = False
        self.failed: Sequence[OpArgument] = ()
        self._log = log
        self._metas = metas
        self._cursor = cursor
        self._nests = nests
        self._first_runs: list[Any] = []
        self._inside = 0
        self._dispatch_modes = _count_dispatch_modes()
        self._modes = _read_modes()

    # What is called instead of the functions

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function, and record it."""
        if self._cursor.nesting is not None:
            self._cursor.nesting.note_arguments(args, kwargs)
        if self._inside or self.is_hidden():
            if function is _RETAIN_GRAD and not self.paused:
                self.retained_inside.append(args[0])
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name == "__get__":
            attribute = getattr(getattr(function, "__self__", None), "__name__", "")
            if attribute in _PLAIN_ATTRIBUTES:
                return function(*args, **kwargs)
            if attribute == "grad":
                self.refuse("it reads a .grad from an earlier backward")
                return function(*args, **kwargs)  # it is no value of this forward
        elif name in _PLAIN_METHODS and function is getattr(torch.Tensor, name):
            return function(*args, **kwargs)
        elif name == "retain_grad" and args:
            self.retained.setdefault(id(args[0]), (self._cursor.call, next_sequence_nr()))
        return self._record(function, function, args, kwargs, needs_result=name in _WITHOUT_EFFECT)

    def apply(self, apply: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a custom Function's ``apply`` as one call; the operations inside its forward are not recorded."""
        if self.paused or _are_transforms_active():
            return apply(*args, **kwargs)
        if self._cursor.nesting is not None or self._nests(function) is False:
            return self._apply(apply, function, args, kwargs)
        self._cursor.nesting = nesting = NestingCall(function, args)
        try:
            result = self._apply(apply, function, args, kwargs)
        finally:
            self._cursor.nesting = None
        if nesting.find_node(result):
            self.nesting.append(nesting)
        elif torch.is_grad_enabled() and self._nests(function):
            self._note_unseen(nesting)
        return result

    def _note_unseen(self, nesting: NestingCall) -> None:
        """Note what a Function used to whose backward nothing leads, as none of its arguments requires grad."""
        event = self.events[-1] if self.events else None
        if (
            event is not None
            and event.target is nesting.function
            and not any(each.requires_grad for each in event.results)
        ):
            event.unseen = nesting.leaves
            for call in nesting.calls:
                call.gradless = event.stack

    def _apply(self, apply: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:  # an operator registered from Python
            return apply(*args, **kwargs)
        if issubclass(function, CheckpointFunction):
            return self._checkpoint(apply, args, kwargs)
        return self._record(apply, function, args, kwargs, needs_result=True)

    def _checkpoint(self, apply: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a reentrant checkpoint; its operations are recorded as they run in forward: under no_grad."""
        cursor = self._cursor
        if not cursor.checkpoints:
            cursor.grad_outside = torch.is_grad_enabled()
            if cursor.grad_outside and not any(is_a(value, torch.Tensor) and value.requires_grad for value in args):
                cursor.gradless = read_stack(sys._getframe(2), cursor.limit, cursor.stack)
        cursor.checkpoints += 1
        try:
            return apply(*args, **kwargs)
        finally:
            cursor.checkpoints -= 1
            if not cursor.checkpoints:
                cursor.gradless = None

    def call_whole(self, call: Callable[..., Any], target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of which the parts cannot be recorded (a transform of torch.func)."""
        if self.is_hidden():
            return call(*args, **kwargs)
        return self._record(call, target, args, kwargs, needs_result=True)

    def call_script(self, call: Callable[..., Any], target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a scripted function as one call, and note which of its operators made nodes."""
        if not is_optimized_script(target):
            call = functools.partial(self._run_unoptimized, call, target)
        if self.is_hidden():
            return call(*args, **kwargs)
        run, count = ScriptRun(target), len(self.events)
        result = self._record(functools.partial(run.watch, call), target, args, kwargs, needs_result=True)
        if len(self.events) > count:
            self.events[-1].script = run
        return result

    def _run_unoptimized(self, call: Callable[..., Any], target: Any, *args: Any, **kwargs: Any) -> Any:
        """TorchScript runs it for the first time, if it has not optimized it after that."""
        result = call(*args, **kwargs)
        if not is_optimized_script(target):
            self._first_runs.append(target)
        return result

    def forget_first_runs(self) -> None:
        """Have TorchScript forget what it ran for the first time: the next run, if it is the program's, is the first then."""
        for function in self._first_runs:
            function._debug_flush_compilation_cache()
        self._first_runs.clear()

    def refuse(self, reason: str) -> None:
        """Note why the recorded calls do not tell what the run computed; the first reason stays."""
        self.refusal = self.refusal or reason

    def is_hidden(self) -> bool:
        """Whether what runs now is part of a recorded call, or of a transform, whose tensors exist only inside of it."""
        return self._inside > 0 or self.paused or _are_transforms_active()

    # One call

    def _record(
        self,
        call: Callable[..., Any],
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        needs_result: bool,
    ) -> Any:
        # a mode that the run itself has entered: the calls alone would not compute the same without it
        if self.refusal is None and (_count_dispatch_modes() > self._dispatch_modes or _read_modes() != self._modes):
            self._refuse_modes()
        arguments: list[OpArgument] = []
        with _DisableTorchFunction():
            frozen = tuple([value if type(value) in _ATOMS else self._freeze(value, arguments) for value in args])
            event = OpEvent(target, frozen, self._freeze(kwargs, arguments) if kwargs else kwargs)
        self._inside += 1
        start = next_sequence_nr()
        try:
            result = call(*args, **kwargs)
        except BaseException:
            self.failed = arguments
            raise
        finally:
            self._inside -= 1
        event.window = start, next_sequence_nr()
        with _DisableTorchFunction():
            if event.window[1] > start:
                event.lists = self._find_lists(event, arguments)
            self._note_changes(event, arguments)
            self._note_results(event, result, arguments)
        if event.results or (result is None and not needs_result):
            self._add(event)
        elif arguments and getattr(target, "__name__", "") in _GIVE_VALUES:
            cursor = self._cursor
            stack = read_stack(sys._getframe(2), cursor.limit, cursor.stack)
            self.host_reads.append(HostRead(target.__name__, arguments[0], stack, cursor.call))
        return result

    def _add(self, event: OpEvent) -> None:
        cursor = self._cursor
        event.stack = read_stack(sys._getframe(3), cursor.limit, cursor.stack)  # without the recorder's own
        event.module_call = cursor.call
        event.in_loss = cursor.in_loss
        event.gradless = cursor.gradless
        if cursor.checkpoints:
            event.differentiable = cursor.grad_outside
        self.events.append(event)

    def _refuse_modes(self) -> None:
        """Note what the run has switched since it began: the operations that follow depend on it."""
        if _count_dispatch_modes() > self._dispatch_modes:
            mode = type(_get_current_dispatch_mode()).__name__
            self.refuse(f"the dispatch mode {mode} may have changed the results of its operations")
        else:
            pairs = zip(_MODES, _read_modes(), self._modes, strict=True)
            self.refuse(next(reason for reason, now, before in pairs if now != before))

    def _freeze(self, value: Any, found: list[OpArgument], depth: int = 0) -> Any:
        """A copy of the argument's containers, which may change later. New tensors in it become constants."""
        kind = type(value)
        if kind in _TENSORS or is_a(value, torch.Tensor):
            if id(value) not in self._log.known:
                self._log.add_constant(value)
            version = None if value.is_inference() else value._version
            found.append(OpArgument(value, self._log.producers.get(id(value)), version))
            return value
        if kind not in _CONTAINERS or depth > _DEEPEST_ARGUMENT:
            return value
        if kind is dict:
            return {key: self._freeze(member, found, depth + 1) for key, member in value.items()}
        return kind([self._freeze(member, found, depth + 1) for member in value])

    def _find_lists(self, event: OpEvent, arguments: Sequence[OpArgument]) -> Sequence[TensorList]:
        given: list[tuple[str | None, Any]] = [*[(None, value) for value in event.args], *event.kwargs.items()]
        lists = [(name, value) for name, value in given if type(value) in (list, tuple) and value]
        if not lists:
            return ()
        known = {id(argument.tensor): argument for argument in arguments}
        return [
            TensorList(
                name,
                tuple([known[id(member)] for member in value]),
                tuple([self._metas.of_tensor(member) for member in value]),
            )
            for name, value in lists
            if all(id(member) in known for member in value)
        ]

    def _note_changes(self, event: OpEvent, arguments: list[OpArgument]) -> None:
        """Which arguments were changed in place, and the nodes that this made: their new grad_fn, and that of a view's
        base, CopySlices. A view is then up to date again (rebase_history in torch/csrc/autograd/variable.cpp), but not
        where the change made no node, as under no_grad: then even ``is_leaf`` would have PyTorch look for its grad_fn,
        and raise for a view that may not be changed."""
        made_nodes = event.window[0] < event.window[1]
        for argument in arguments:
            tensor = argument.tensor
            if argument.version is None or tensor._version == argument.version:
                continue
            event.changes.append(argument)
            is_view = tensor._is_view()
            if is_view and made_nodes and tensor is arguments[0].tensor:
                self._log.note_fresh(tensor)
            if tensor.requires_grad and not self._log.is_stale(tensor):
                changed = [tensor, tensor._base] if is_view else [tensor]
                origins = [read_origin(one) for one in changed if one is not None and not one.is_leaf]
                event.nodes += [origin[0] for origin in origins if origin is not None]

    def _note_results(self, event: OpEvent, result: Any, arguments: list[OpArgument]) -> None:
        kind = type(result)
        found: Sequence[tuple[Route, torch.Tensor]] = ()
        if kind in _TENSORS or is_a(result, torch.Tensor):
            found = (((), result),)
        elif kind not in _ATOMS:
            found = find_tensor_routes(result)
        number = len(self.events)
        detaches = getattr(event.target, "__name__", "") == "detach"
        for position, (route, tensor) in enumerate(found):
            shares = _find_shared(tensor, arguments, detaches=detaches)
            meta, stride = self._metas.of_tensor(tensor), read_stride(tensor)
            event.results.append(OpResult(route, tensor, meta, stride, tensor.requires_grad, shares))
            origin = self._log.add_result(tensor, (number, position))
            if origin is not None:
                event.nodes.append(origin[0])


class NestingCall:
    """The call of a Function whose backward may start a backward of its own: its node, and what that may reach.

    Such a backward reaches the leaves that it uses. It reaches more where it starts from tensors of this graph: from the
    Function's arguments, which most programs detach, or from others that the Function's forward uses without being given
    them.

    ``calls``    the module calls that its forward made
    ``leaves``   the leaves that its forward used without being given them
    ``origins``  those of what its forward used besides leaves and its arguments
    """

    def __init__(self, function: type, given: Sequence[Any]) -> None:
        self.function = function
        self.node: AutogradNode | None = None
        self.calls: list[ModuleEvent] = []
        self.leaves: list[torch.Tensor] = []
        self.origins: list[Origin] = []
        self._given = {id(value) for value in given if is_a(value, torch.Tensor)}
        self._started = next_sequence_nr()

    def note_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Note what an operation inside the forward got of the graph around."""
        with _DisableTorchFunction():
            for _, tensor in find_tensors((tuple(args), dict(kwargs))).tensors:
                if id(tensor) in self._given or not tensor.requires_grad:
                    continue
                if is_leaf(tensor):
                    self.leaves.append(tensor)
                    continue
                origin = read_origin(tensor)
                if origin is not None and origin[0]._sequence_nr() < self._started:
                    self.origins.append(origin)

    def find_node(self, result: Any) -> bool:
        """Find the Function's node by what the call returned; whether there is one."""
        with _DisableTorchFunction():
            origins = [read_origin(tensor) for _, tensor in find_tensors(result).tensors if tensor.requires_grad]
        nodes = [origin[0] for origin in origins if origin is not None]
        self.node = next((node for node in nodes if getattr(node, "_forward_cls", None) is self.function), None)
        return self.node is not None


def _find_shared(result: torch.Tensor, arguments: Sequence[OpArgument], *, detaches: bool) -> OpArgument | None:
    """The argument whose version counter a result shares: itself, what it is a view of, or was detached from."""
    base = result._base if result._is_view() else None
    for argument in arguments:
        tensor = argument.tensor
        if tensor is result or detaches:
            return argument
        if base is not None and (tensor is base or (tensor._is_view() and tensor._base is base)):
            return argument
    return None


def _read_modes() -> tuple[object, ...]:
    """What decides, besides its arguments, what a function gives. Grad mode does not: each call knows its own."""
    return (
        _read_autocast() if _is_any_autocast_enabled() else None,
        _is_inference_mode_enabled(),
        _get_default_dtype(),
        _device.CURRENT_DEVICE,
        _initial_seed(),
    )


def _read_autocast() -> tuple[object, ...]:
    devices = [kind for kind in _AUTOCAST_DEVICES if torch.is_autocast_enabled(kind)]
    return tuple([(kind, torch.get_autocast_dtype(kind)) for kind in devices])

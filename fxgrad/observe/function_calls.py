"""Notes the calls of torch functions: what each got, what it returned, and which nodes it made.

Sources relied on: torch/overrides.py (TorchFunctionMode), torch/csrc/autograd/variable.cpp (views),
torch/autograd/function.py (Function.apply).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _device
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import CheckpointFunction

from fxgrad.observe.autograd.python_code import find_nested_backward
from fxgrad.observe.frames import running
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.real_types import is_a
from fxgrad.observe.reruns import SeenRerun
from fxgrad.observe.seen import (
    Earlier,
    Origin,
    SeenFunctionCall,
    SeenList,
    SeenModuleCall,
    SeenResult,
    SeenTaking,
    next_sequence_nr,
    origin_of,
)
from fxgrad.observe.structure import Route, routes_in
from fxgrad.observe.tensor_log import TensorLog
from fxgrad.observe.whereabouts import Whereabouts

_WITHOUT_EFFECT = frozenset({"retain_grad", "__get__", "__delete__"})
"""Functions that return None and whose call changes no value."""
ASKS = "__bool__"
_GIVE_VALUES = frozenset(
    [ASKS, "__array__", "__complex__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"]
)
"""Methods that give a tensor's values to Python, out of autograd's sight (torch/_tensor.py)."""
_HOLD_NO_TENSOR = frozenset({int, bool, float, str, torch.Size, torch.dtype, torch.device, type(None)})
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

_transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active
_count_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack


class FunctionCalls:
    """The function calls of one run, in order.

    ``retained`` says in which module call, and at which sequence number, a tensor was told to retain its gradient;
    ``retained_inside`` are the tensors that were told so inside of a recorded call. ``taken`` are the values, or their
    truth, that Python took. ``reruns`` are the Functions whose backward may run their forward again.

    ``refusal`` says why the calls alone do not tell what the run computed: something else had a hand in it.
    ``before_call`` is called before each function with the function, its args and its kwargs.
    """

    def __init__(self, log: TensorLog, metas: MetaTable, where: Whereabouts) -> None:
        self.calls: list[SeenFunctionCall] = []
        self.retained: dict[int, tuple[SeenModuleCall | None, int]] = {}
        self.retained_inside: list[torch.Tensor] = []
        self.taken: list[SeenTaking] = []
        self.reruns: list[SeenRerun] = []
        self.refusal: str | None = None
        self.before_call: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] | None = None
        self.paused = False
        self._log = log
        self._metas = metas
        self._where = where
        self._inside = 0
        self._dispatch_modes = _count_dispatch_modes()
        self._modes = _read_modes()

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function, and note it."""
        if self.before_call is not None:
            self.before_call(function, args, kwargs)
        if self._where.rerun is not None:
            self._where.rerun.note_arguments(args, kwargs)
        if self.is_hidden():
            if function is _RETAIN_GRAD and not self.paused:
                self.retained_inside.append(args[0])
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name == "retain_grad" and args:
            self.retained.setdefault(id(args[0]), (self._where.call, next_sequence_nr()))
        if name == "__get__" and getattr(getattr(function, "__self__", None), "__name__", "") == "grad":
            self.refuse("it reads a .grad, which backward has left there")
            return function(*args, **kwargs)  # it is no value of this forward
        return self._run(function, function, args, kwargs, needs_result=name in _WITHOUT_EFFECT)

    def apply(self, apply: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a custom Function's ``apply`` as one call; the operations inside its forward are not recorded."""
        if self.before_call is not None:
            self.before_call(function, args, kwargs)
        if self.is_hidden():
            return apply(*args, **kwargs)
        nested = find_nested_backward(function)
        if nested is None or self._where.rerun is not None:
            return self._apply_plainly(apply, function, args, kwargs)
        self._where.rerun = rerun = SeenRerun(function, nested, args)
        try:
            result = self._apply_plainly(apply, function, args, kwargs)
        finally:
            self._where.rerun = None
        if rerun.note_node(result):
            self.reruns.append(rerun)
        return result

    def _apply_plainly(self, apply: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if issubclass(function, CheckpointFunction):
            return self._checkpoint(apply, args, kwargs)
        return self._run(apply, function, args, kwargs, needs_result=True)

    def _checkpoint(self, apply: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a reentrant checkpoint; its operations are recorded as they run in forward: under no_grad."""
        if not self._where.checkpoints:
            self._where.grad_outside = torch.is_grad_enabled()
        self._where.checkpoints += 1
        try:
            return apply(*args, **kwargs)
        finally:
            self._where.checkpoints -= 1

    def whole(self, call: Callable[..., Any], target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of which the parts cannot be recorded (a transform of torch.func, a scripted function)."""
        if self.before_call is not None:
            self.before_call(target, args, kwargs)
        if self.is_hidden():
            return call(*args, **kwargs)
        return self._run(call, target, args, kwargs, needs_result=True)

    def refuse(self, reason: str) -> None:
        """Note why the recorded calls do not tell what the run computed; the first reason stays."""
        self.refusal = self.refusal or reason

    def is_hidden(self) -> bool:
        """Whether what runs now is part of a recorded call, or of a transform, whose tensors exist only inside of it."""
        return self._inside > 0 or self.paused or _transforming()

    def _run(
        self,
        call: Callable[..., Any],
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        needs_result: bool,
    ) -> Any:
        if self.refusal is None:
            self._check_modes()
        with torch._C.DisableTorchFunction():
            arguments: list[Earlier] = []
            frozen = self._frozen(args, arguments), self._frozen(kwargs, arguments) if kwargs else kwargs
            seen = SeenFunctionCall(target, *frozen)
        self._inside += 1
        start = next_sequence_nr()
        try:
            result = call(*args, **kwargs)
        finally:
            self._inside -= 1
        seen.window = (start, next_sequence_nr())
        with torch._C.DisableTorchFunction():
            if seen.window[0] < seen.window[1]:
                self._note_lists(seen, arguments)
            self._note_changes(seen, arguments)
            self._note_results(seen, result, arguments)
        if seen.results or (result is None and not needs_result):
            self._add(seen)
        elif arguments and getattr(target, "__name__", "") in _GIVE_VALUES:
            self._note_taking(target.__name__, arguments[0])
        return result

    def _note_taking(self, function: str, tensor: Earlier) -> None:
        where = self._where
        stack = running(sys._getframe(2), where.limit, where.stack)
        self.taken.append(SeenTaking(function, tensor, stack, where.call))

    def _add(self, seen: SeenFunctionCall) -> None:
        where = self._where
        seen.stack = running(sys._getframe(3), where.limit, where.stack)
        seen.module_call = where.call
        seen.in_loss = where.in_loss
        if where.checkpoints:
            seen.differentiable = where.grad_outside
        self.calls.append(seen)

    def _check_modes(self) -> None:
        """Note what the run has switched since it began: the operations that follow depend on it."""
        if _count_dispatch_modes() > self._dispatch_modes:
            mode = type(_get_current_dispatch_mode()).__name__
            self.refuse(f"the dispatch mode {mode} had a hand in what its operations gave")
        modes = _read_modes()
        if modes != self._modes:
            pairs = zip(_MODES, modes, self._modes, strict=True)
            self.refuse(next(reason for reason, now, before in pairs if now != before))

    def _frozen(self, value: Any, found: list[Earlier], depth: int = 0) -> Any:
        """A copy of the argument's containers, which may change later. New tensors in it become constants."""
        if is_a(value, torch.Tensor):
            if id(value) not in self._log.known:
                self._log.add_constant(value)
            version = None if value.is_inference() else value._version
            found.append(Earlier(value, self._log.producers.get(id(value)), version))
            return value
        kind = type(value)
        if kind not in _CONTAINERS or depth > _DEEPEST_ARGUMENT:
            return value
        if kind is dict:
            return {key: self._frozen(member, found, depth + 1) for key, member in value.items()}
        return kind([self._frozen(member, found, depth + 1) for member in value])

    def _note_lists(self, seen: SeenFunctionCall, arguments: Sequence[Earlier]) -> None:
        given = [*((None, value) for value in seen.args), *seen.kwargs.items()]
        lists = [(name, value) for name, value in given if type(value) in (list, tuple) and value]
        known = {id(argument.tensor): argument for argument in arguments} if lists else {}
        for name, value in lists:
            if all(id(member) in known for member in value):
                metas = tuple([self._metas.of_tensor(member) for member in value])
                seen.lists.append(SeenList(name, tuple([known[id(member)] for member in value]), metas))

    def _note_changes(self, seen: SeenFunctionCall, arguments: list[Earlier]) -> None:
        """Which arguments were changed in place, and the nodes that this made: their new grad_fn, and that of a view's
        base, CopySlices. A view is then up to date again (rebase_history in torch/csrc/autograd/variable.cpp), but not
        where the change made no node, as under no_grad: then even ``is_leaf`` would have PyTorch look for its grad_fn,
        and raise for a view that may not be changed."""
        made_nodes = seen.window[0] < seen.window[1]
        for argument in arguments:
            tensor = argument.tensor
            if argument.version is None or tensor._version == argument.version:
                continue
            seen.changes.append(argument)
            is_view = tensor._is_view()
            if is_view and made_nodes and tensor is arguments[0].tensor:
                self._log.note_fresh(tensor)
            if tensor.requires_grad and not self._log.is_stale(tensor):
                changed = [tensor, tensor._base] if is_view else [tensor]
                origins = [origin_of(one) for one in changed if one is not None and not one.is_leaf]
                seen.origins += [(*origin, None) for origin in origins if origin is not None]

    def _note_results(self, seen: SeenFunctionCall, result: Any, arguments: list[Earlier]) -> None:
        seen.result_type = kind = type(result)
        found: Sequence[tuple[Route, torch.Tensor]] = ()
        if is_a(result, torch.Tensor):
            found = (((), result),)
        elif kind not in _HOLD_NO_TENSOR:
            found = routes_in(result)
        number = len(self.calls)
        detaches = getattr(seen.target, "__name__", "") == "detach"
        for position, (route, tensor) in enumerate(found):
            shares = _shared(tensor, arguments, detaches=detaches)
            meta, stride = self._metas.of_tensor(tensor), stride_of(tensor)
            seen.results.append(SeenResult(route, tensor, meta, stride, tensor.requires_grad, shares))
            origin = self._note_result(tensor, number, position)
            if origin is not None:
                seen.origins.append((*origin, position))

    def _note_result(self, tensor: torch.Tensor, number: int, position: int) -> Origin | None:
        log = self._log
        was_known = id(tensor) in log.known
        log.add_result(tensor, (number, position))
        if not tensor.requires_grad:
            return None
        if tensor._is_view():
            if was_known and log.is_stale(tensor):
                return None
            log.note_fresh(tensor)
        return origin_of(tensor)


def _shared(result: torch.Tensor, arguments: Sequence[Earlier], *, detaches: bool) -> Earlier | None:
    """The argument whose version counter a result shares: itself, what it is a view of, or was detached from."""
    base = result._base if result._is_view() else None
    for earlier in arguments:
        argument = earlier.tensor
        if argument is result or detaches:
            return earlier
        if base is not None and (argument is base or (argument._is_view() and argument._base is base)):
            return earlier
    return None


def stride_of(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The strides of a tensor; None for one that has none: sparse, or strided nested."""
    return None if tensor.layout is not torch.strided or tensor.is_nested else tensor.stride()


def _read_modes() -> tuple[object, ...]:
    """What decides, besides its arguments, what a function gives. Grad mode does not: each call knows its own."""
    return (
        _read_autocast() if torch._C._is_any_autocast_enabled() else None,
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        _device.CURRENT_DEVICE,
        torch.default_generator.initial_seed(),
    )


def _read_autocast() -> tuple[object, ...]:
    devices = [kind for kind in _AUTOCAST_DEVICES if torch.is_autocast_enabled(kind)]
    return tuple([(kind, torch.get_autocast_dtype(kind)) for kind in devices])

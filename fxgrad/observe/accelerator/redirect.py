"""Lets code that says ``cuda`` run on the emulated device.

The user's file is not changed, so everything through which Python code meets the CUDA device has to answer for it:
devices among the arguments of PyTorch functions (a torch function mode), ``with torch.device("cuda")``
(torch/utils/_device.py, which keeps itself below every other mode), ``tensor.device`` and ``torch.cuda``.
What only a real GPU can answer (its memory, streams, compute capability) raises TargetError.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator import autocast, engine
from fxgrad.observe.accelerator.device import NAME, fake_device, public_name, stand_in
from fxgrad.observe.accelerator.layouts import format_of_convolution
from fxgrad.observe.accelerator.views import Views


@contextmanager
def redirected(mode: FakeTensorMode) -> Iterator[None]:
    """Within it, ``cuda`` means the emulated device, in this whole process (and nothing needs a GPU to say so)."""
    with ExitStack() as stack:
        for owner, name, value in _replacements(mode):
            stack.enter_context(_replaced(owner, name, value))
        stack.enter_context(RedirectMode())
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    original = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


class RedirectMode(TorchFunctionMode):
    """Puts the emulated device in the place of CUDA among the arguments of every PyTorch function."""

    def __init__(self) -> None:
        super().__init__()
        self._views = Views()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        own = _OWN_ANSWERS.get(func)
        if own is not None:
            return own(*args, **named)
        if "device" in named:
            named["device"] = _device(named["device"])
        positional = [_device(each) if isinstance(each, torch.device) else each for each in args]
        if func is Tensor.to and len(args) > 1:
            positional[1] = _device(args[1])
        return self._with_views(func, positional, named)

    def _with_views(self, func: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
        """Call it on views that have the nodes of today, and note those that it returns."""
        given = (*positional, *named.values())
        with torch._C.DisableTorchFunction():
            self._views.renew(given)
        result = func(*positional, **named)
        with torch._C.DisableTorchFunction():
            self._views.renew(given)
            self._views.note((result,))
        return result


def _device(argument: Any) -> Any:
    """`argument` with CUDA replaced, where it names a device; anything else as it is."""
    if isinstance(argument, str) and argument.partition(":")[0] == "cuda":
        return stand_in(torch.device(argument))
    return stand_in(argument) if isinstance(argument, torch.device) else argument


def _to_cuda(tensor: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """``tensor.cuda(...)``, which takes an index as well."""
    asked = torch.device("cuda", device) if isinstance(device, int) else device
    to = fake_device() if asked is None else _device(asked)
    return tensor.to(to, non_blocking=non_blocking, memory_format=memory_format or torch.preserve_format)


def _is_cuda(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == NAME


def _deepcopied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """torch/_tensor.py asks every subclass for its data pointer, and fake tensors warn that they have none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        copy: Tensor = Tensor.__deepcopy__(tensor, memo)  # type: ignore[no-untyped-call]
        return copy


_OWN_ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.__deepcopy__: _deepcopied,
    Tensor.cuda: _to_cuda,
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
}


def _replacements(mode: FakeTensorMode) -> Iterator[tuple[Any, str, object]]:
    yield from engine.replacements()
    yield torch.utils, "swap_tensors", _swapping(mode)
    yield torch.nn.init, "_no_grad_trunc_normal_", _filling(torch.nn.init._no_grad_trunc_normal_)
    by_kernel = "_conv_determine_backend_memory_format"
    yield torch._C, by_kernel, format_of_convolution(getattr(torch._C, by_kernel))
    yield FakeTensor, "device", property(_visible_device)
    yield DeviceContext, "__init__", _device_context
    yield torch.accelerator, "current_accelerator", _always(torch.device("cuda"))
    for name, answer in _CUDA_ANSWERS.items():
        yield torch.cuda, name, answer
    for module in (torch.cuda, torch.cuda.random):
        yield module, "_lazy_init", _needs_a_gpu
    for name, replacement in autocast.replacements():
        yield torch, name, replacement


_fake_tensor_device = FakeTensor.__dict__["device"]
_device_context_init = DeviceContext.__init__


def _visible_device(tensor: FakeTensor) -> torch.device:
    """PyTorch's own code sees the device that is there; everybody else the one that it stands for.

    So that ``if x.device.type == "cuda"`` takes the branch that it takes on CUDA.
    """
    device: torch.device = _fake_tensor_device.fget(tensor)
    if device.type != NAME:
        return device
    caller = sys._getframe(1).f_globals.get("__name__", "")
    return device if caller == "torch" or caller.startswith("torch.") else torch.device(public_name(device))


def _swapping(mode: FakeTensorMode) -> Callable[[Tensor, Tensor], None]:
    """``swap_tensors``, by which ``Module.to`` moves fake parameters: it refuses what the mode refers to weakly."""
    swap: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors

    def swap_tensors(first: Tensor, second: Tensor) -> None:
        mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
        swap(first, second)

    return swap_tensors


def _filling(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`fill`, which draws until every value fits (torch/nn/init.py), for what has values."""

    def filled(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else fill(tensor, *args, **kwargs)

    return filled


def _always(answer: Any) -> Callable[..., Any]:
    """A function that answers `answer`, whatever it is asked with."""
    return lambda *_args, **_kwargs: answer


def _device_context(context: DeviceContext, device: Any) -> None:
    _device_context_init(context, _device(device))


def _set_device(device: Any) -> None:
    stand_in(torch.device("cuda", device) if isinstance(device, int) else torch.device(device))


def _needs_a_gpu() -> None:
    """What every function of torch.cuda calls before it asks the driver."""
    asked = sys._getframe(1).f_code.co_name
    raise TargetError(
        f"the target calls torch.cuda.{asked}, or something that needs it",
        "what an emulated CUDA device can answer: that it is there, not what it is",
        "trace on the CPU, or on a machine with a CUDA device",
    )


_CUDA_ANSWERS: dict[str, Callable[..., Any]] = {
    "is_available": _always(True),
    "device_count": _always(1),
    "current_device": _always(0),
    "is_bf16_supported": _always(True),
    "set_device": _set_device,
    "synchronize": _always(None),
    "manual_seed": _always(None),
    "manual_seed_all": _always(None),
    "get_rng_state": lambda *_: torch.empty(0, dtype=torch.uint8, device="cpu"),
    "get_rng_state_all": lambda: [torch.empty(0, dtype=torch.uint8, device="cpu")],
    "set_rng_state": _always(None),
    "set_rng_state_all": _always(None),
    "_exchange_device": _always(0),
    "_maybe_exchange_device": _always(0),
}

"""Lets code that says ``cuda`` run on the emulated device.

The user's file is not changed, so everything in which Python code sees the CUDA device is replaced: devices among the
arguments of PyTorch functions (a torch function mode), ``with torch.device("cuda")`` (torch/utils/_device.py, which
keeps itself below every other mode), ``tensor.device`` and ``torch.cuda``. What only a real GPU can answer (its memory,
streams, compute capability) raises TargetError. Two things that fake tensors do differently are mended here as well:
the memory format of convolutions, and the nodes of views that were changed in place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext
from torch.utils.weak import WeakIdKeyDictionary

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator import autocast
from fxgrad.observe.accelerator.device import NAME, make_device, public_name, replace_cuda

_CONTAINERS = (tuple, list)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@contextmanager
def redirect_cuda(mode: FakeTensorMode) -> Iterator[None]:
    """Let ``cuda`` mean the emulated device within the body, in this whole process."""
    with ExitStack() as stack:
        for owner, name, value in _list_replacements(mode):
            stack.enter_context(replace_attribute(owner, name, value))
        stack.enter_context(RedirectMode())
        yield


@contextmanager
def replace_attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of a class or module within the body."""
    original = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


class RedirectMode(TorchFunctionMode):
    """Replaces CUDA by the emulated device among the arguments of every PyTorch function."""

    def __init__(self) -> None:
        super().__init__()
        self._views = ViewNodes()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        own = _OWN_FUNCTIONS.get(func)
        if own is not None:
            return own(*args, **named)
        if "device" in named:
            named["device"] = _replace_device(named["device"])
        positional = [_replace_device(each) if isinstance(each, torch.device) else each for each in args]
        if func is Tensor.to and len(args) > 1:
            positional[1] = _replace_device(args[1])
        return self._call_with_views(func, positional, named)

    def _call_with_views(self, func: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
        """Call it on views whose nodes are up to date, and note the views that it returns."""
        given = (*positional, *named.values())
        with torch._C.DisableTorchFunction():
            self._views.renew(given)
        result = func(*positional, **named)
        with torch._C.DisableTorchFunction():
            self._views.renew(given)
            self._views.note((result,))
        return result


def _replace_device(argument: Any) -> Any:
    """Replace CUDA if `argument` names a device; return anything else as it is."""
    if isinstance(argument, str) and argument.partition(":")[0] == "cuda":
        return replace_cuda(torch.device(argument))
    return replace_cuda(argument) if isinstance(argument, torch.device) else argument


def _to_cuda(tensor: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """``tensor.cuda(...)``, which takes an index as well."""
    asked = torch.device("cuda", device) if isinstance(device, int) else device
    to = make_device() if asked is None else _replace_device(asked)
    return tensor.to(to, non_blocking=non_blocking, memory_format=memory_format or torch.preserve_format)


def _is_cuda(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == NAME


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """torch/_tensor.py reads the data pointer of every subclass, and fake tensors warn that they have none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        copy: Tensor = Tensor.__deepcopy__(tensor, memo)  # type: ignore[no-untyped-call]
        return copy


_OWN_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    Tensor.__deepcopy__: _deepcopy,
    Tensor.cuda: _to_cuda,
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
}


def _list_replacements(mode: FakeTensorMode) -> Iterator[tuple[Any, str, object]]:
    yield torch.utils, "swap_tensors", _make_swap(mode)
    yield torch.nn.init, "_no_grad_trunc_normal_", _make_fill(torch.nn.init._no_grad_trunc_normal_)
    by_kernel = "_conv_determine_backend_memory_format"
    yield torch._C, by_kernel, _make_convolution_format(getattr(torch._C, by_kernel))
    yield FakeTensor, "device", property(_visible_device)
    yield DeviceContext, "__init__", _device_context
    yield torch.accelerator, "current_accelerator", _always(torch.device("cuda"))
    for name, answer in _CUDA_ANSWERS.items():
        yield torch.cuda, name, answer
    for module in (torch.cuda, torch.cuda.random):
        yield module, "_lazy_init", _needs_a_gpu
    for name, replacement in autocast.list_replacements():
        yield torch, name, replacement


_fake_tensor_device = FakeTensor.__dict__["device"]
_device_context_init = DeviceContext.__init__


def _visible_device(tensor: FakeTensor) -> torch.device:
    """PyTorch's own code sees the emulated device, all other code the CUDA device that it stands for.

    So ``if x.device.type == "cuda"`` in a model takes the branch that it takes on CUDA.
    """
    device: torch.device = _fake_tensor_device.fget(tensor)
    if device.type != NAME:
        return device
    caller = sys._getframe(1).f_globals.get("__name__", "")
    return device if caller == "torch" or caller.startswith("torch.") else torch.device(public_name(device))


def _make_swap(mode: FakeTensorMode) -> Callable[[Tensor, Tensor], None]:
    """``Module.to`` moves fake parameters by ``swap_tensors``, which refuses tensors that the mode refers to weakly."""
    swap: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors

    def swap_tensors(first: Tensor, second: Tensor) -> None:
        mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
        swap(first, second)

    return swap_tensors


def _make_fill(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`fill` draws until every value fits (torch/nn/init.py), which for a tensor without values is never."""

    def fill_real(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else fill(tensor, *args, **kwargs)

    return fill_real


def _always(answer: Any) -> Callable[..., Any]:
    """Make a function that returns `answer` for all arguments."""
    return lambda *_args, **_kwargs: answer


def _device_context(context: DeviceContext, device: Any) -> None:
    _device_context_init(context, _replace_device(device))


def _set_device(device: Any) -> None:
    replace_cuda(torch.device("cuda", device) if isinstance(device, int) else torch.device(device))


def _needs_a_gpu() -> None:
    """Stands for ``_lazy_init``, which every function of torch.cuda calls before it asks the driver."""
    asked = sys._getframe(1).f_code.co_name
    raise TargetError(
        f"the target calls torch.cuda.{asked}, or something that needs it",
        "what an emulated CUDA device can answer: that it exists, not what it is",
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


# Convolutions


def _make_convolution_format(otherwise: Callable[..., torch.memory_format]) -> Callable[..., torch.memory_format]:
    """The memory format that CUDA's convolutions give their result, which decides how later operators see it.

    FakeTensorMode asks PyTorch for the format by the kernel (torch/_subclasses/fake_impls.py, ``conv``). For a device
    that is not CUDA, PyTorch's own function, `otherwise`, always returns the contiguous format.
    """

    def memory_format(input: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
        is_emulated = isinstance(input, FakeTensor) and input.fake_device.type == NAME
        return _find_cudnn_format(input, weight) if is_emulated else otherwise(input, weight, backend)

    return memory_format


def _find_cudnn_format(input: Tensor, weight: Tensor) -> torch.memory_format:
    """ConvUtils.h: cudnn_conv_suggest_memory_format. The other kernels of CUDA give contiguous results."""
    if torch.float64 in (input.dtype, weight.dtype) or not torch._C._get_cudnn_enabled():
        return torch.contiguous_format
    last = _CHANNELS_LAST.get(weight.dim())
    formats = suggest_memory_format(input), suggest_memory_format(weight)
    return last if last is not None and last in formats else torch.contiguous_format


# Views that were changed in place


class ViewNodes:
    """Gives views that were changed in place the node that they have on a real device.

    When a view or its base is changed in place, PyTorch makes a new node for each view: ``AsStridedBackward0``, a view of
    the base (torch/csrc/autograd/variable.cpp, ``VariableHooks::grad_fn``). For fake tensors it calls the functions that
    made the view again instead, which makes their nodes. Here such a view gets, before and after every call that it is
    an argument of, the implementation of a view that ``as_strided`` takes of the base.
    """

    def __init__(self) -> None:
        self._versions: Any = WeakIdKeyDictionary()
        """Of each view the version of its base at which its node was made."""

    def note(self, values: Iterable[Any]) -> None:
        """Note the views among the results of a call: their nodes are new."""
        for view in _find_views(values):
            self._versions.setdefault(view, view._version)

    def renew(self, values: Iterable[Any]) -> None:
        """Give the views among some values new nodes if theirs are out of date.

        Without grad nothing looks at the nodes, and inside a Function's forward the view is still that of its caller.
        """
        if not torch.is_grad_enabled():
            return
        for view in _find_views(values):
            if self._versions.setdefault(view, view._version) != view._version:
                self._versions[view] = view._version
                _renew_node(view)


def _find_views(values: Iterable[Any]) -> Iterator[FakeTensor]:
    """The views in the values, and in the tuples and lists among them."""
    for value in values:
        members = value if type(value) in _CONTAINERS else (value,)
        yield from (each for each in members if isinstance(each, FakeTensor) and each._is_view())


def _renew_node(view: FakeTensor) -> None:
    base = view._base
    creation = torch._C._autograd._get_creation_meta(view)
    if base is None or not base.requires_grad or creation != torch._C._autograd.CreationMeta.DEFAULT:
        return  # it has no node, or PyTorch forbids its use
    if view._backward_hooks or view.retains_grad:
        raise _cannot_renew("a view with hooks is modified in place")
    with torch.enable_grad():
        renewed = torch.as_strided(base, view.shape, view.stride(), view.storage_offset())
    try:
        torch._C._swap_tensor_impl(view, renewed)
    except RuntimeError as error:  # the implementation is held elsewhere
        raise _cannot_renew("a view that is saved for backward is used after it was modified in place") from error


def _cannot_renew(what: str) -> TargetError:
    return TargetError(
        f"{what}, on the emulated CUDA device",
        "views without hooks that are modified in place before they are saved for backward",
        "trace on the CPU, or on a machine with a CUDA device",
    )

"""Keeps the values of tensors, and copies a storage only when something is about to write to it.

A ``TorchFunctionMode`` sees the outermost torch function that a program calls, whole: ``F.dropout`` and not the
``dropout_`` inside of it. So what counts is what any of the operators inside may write to.

Sources relied on: torch/overrides.py (which functions a mode sees), torch/_ops.py, and
aten/src/ATen/native/native_functions.yaml: an argument that is written to is marked ``(a!)``, but for the statistics of
``batch_norm`` and the like.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxgrad.observe.real_types import is_a

_SMALL = 2**20
_SMALL_PART = 0.1
"""Tensors that are no weights are copied at once, where they are no more bytes, or no larger part of all."""
_SAMPLED = 64
"""How many bytes of a storage are compared, to see whether it was changed."""
_count_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_is_wrapped: Callable[[torch.Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
_unwrap: Callable[[torch.Tensor], torch.Tensor] = torch._C._functorch.get_unwrapped
_DisableTorchFunction = torch._C.DisableTorchFunction
_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


class _Values(NamedTuple):
    """What a tensor is made of. ``alias`` is None for a class of which no alias can be kept, ``version`` for a tensor that
    has no counter; ``keys`` are those of its storages."""

    tensor: torch.Tensor
    alias: torch.Tensor | None
    version: int | None
    keys: frozenset[int]


class Memory:
    """The values of some tensors. They are put back through their storages, so that no version counter and no graph
    sees it: a live graph of the user's that saved one of the tensors stays valid, as the version counters are put back
    as well (torch/csrc/autograd/saved_variable.cpp compares them).

    A storage is copied before something writes to it. Aliases and views share their storage, so it does not matter
    through which tensor the write goes. `before_call` finds the writes by which function is called with what. Before code
    that no ``TorchFunctionMode`` sees (TorchScript, other threads, ``__torch_dispatch__``, backward …) everything is
    copied. Tensors that are no parameters, as buffers and arguments, are mostly small, and copied at once. Version counters
    and a sample of the bytes show at the end what was written to unseen all the same (by a thread that was there before,
    by C++ code that is no operator): those tensors are ``lost``.

    An alias of each tensor remembers its storage and geometry, for the case that it is given others (``p.data = …``,
    ``resize_``, operations that give a sparse tensor other indices). Fake and meta tensors have no values.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], *, weights: Sequence[torch.Tensor], on_write: bool) -> None:
        self.lost: list[torch.Tensor] = []
        self._values: list[_Values] = []
        self._uncopied: dict[int, torch.UntypedStorage] = {}
        self._copies: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        self._writes: dict[Any, Writes | None] = {}
        self._samples: list[_Sample] = []
        self._harmless_classes: set[type] = {torch.Tensor, nn.Parameter}
        for tensor in tensors:
            self._add(tensor)
        if on_write and not is_code_unseen([*map(type, tensors), *map(type, _function_modes())]):
            self._copy_storages(self._copied_at_once(weights))
            with torch._C._DisableTorchDispatch():
                self._samples += [_sample(key, storage) for key, storage in self._uncopied.items()]
        else:
            self.copy_all()

    def _add(self, tensor: torch.Tensor) -> None:
        storages = {storage._cdata: storage for storage in _storages(tensor)}
        detachable = not _is_wrapped(tensor) and (_is_plain(tensor) or _is_sparse(tensor))
        alias = tensor.detach() if detachable else None
        version = None if tensor.is_inference() else tensor._version
        self._values.append(_Values(tensor, alias, version, frozenset(storages)))
        self._uncopied |= storages

    def _copied_at_once(self, weights: Sequence[torch.Tensor]) -> set[int]:
        """The storages to copy before anything runs: those of complex tensors, as no mode sees ``t.real = x``, and those
        that are no weight's, where they are small."""
        complex_ones = {key for values in self._values if values.tensor.is_complex() for key in values.keys}
        others = self._uncopied.keys() - {storage._cdata for weight in weights for storage in _storages(weight)}
        size = sum(self._uncopied[key].nbytes() for key in others)
        total = sum(storage.nbytes() for storage in self._uncopied.values())
        return complex_ones | others if size <= max(_SMALL, _SMALL_PART * total) else complex_ones

    def _copy_storages(self, keys: Iterable[int]) -> None:
        with torch._C._DisableTorchDispatch():  # the modes that are entered are not asked
            for key in keys:
                storage = self._uncopied.pop(key)
                self._copies.append((storage, storage.clone()))  # type: ignore[no-untyped-call]

    def copy_all(self) -> None:
        """Copy all that has not been copied yet, before something runs that may write anywhere without being seen."""
        with _DisableTorchFunction():
            self._copy_storages(list(self._uncopied))

    def before_call(
        self, function: Any, types: Iterable[type], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Copy what a call of a torch function may write to. The arguments are those of ``__torch_function__``."""
        if not self._uncopied:
            return
        try:
            writes = self._writes[function]
        except KeyError:
            writes = self._writes[function] = find_writes(function)
        except Exception:  # an object of the user's that has no hash
            writes = unseen
        if writes is unseen or _count_dispatch_modes() or self._runs_unseen_code(types):
            self.copy_all()
            return
        written = [] if writes is None else writes(args, kwargs)
        if "out" in kwargs:
            written = [*written, kwargs["out"]]
        if written:
            self._copy_tensors(written)

    def _runs_unseen_code(self, types: Iterable[type]) -> bool:
        if self._harmless_classes.issuperset(types):
            return False
        if is_code_unseen(types):
            return True
        self._harmless_classes.update(types)
        return False

    def _copy_tensors(self, values: list[Any]) -> None:
        with _DisableTorchFunction():
            try:
                keys = {storage._cdata for tensor in _tensors_in(values) for storage in _storages(tensor)}
            except (NotImplementedError, RuntimeError):  # of a class that does not show its storage
                keys = set(self._uncopied)
            if not keys.isdisjoint(self._uncopied):
                self._copy_storages(keys & self._uncopied.keys())

    def put_back(self) -> None:
        """Put sizes, values and version counters back. Written is only where something changed: the memory may be a
        mapped file, or shared with other processes."""
        changed = self._put_values_back()
        counted: list[tuple[torch.Tensor, int]] = []
        for tensor, alias, version, keys in self._values:
            is_counter_moved = version is not None and tensor._version != version
            if alias is not None and not _is_alias(tensor, alias):
                tensor.data = alias
            elif is_counter_moved and not keys.isdisjoint(self._uncopied):
                changed |= keys
            if not keys.isdisjoint(changed):
                self.lost.append(tensor)
            elif version is not None and is_counter_moved:
                counted.append((tensor, version))
        tensors = tuple([tensor for tensor, _ in counted])
        torch._C._autograd._unsafe_set_version_counter(tensors, tuple([version for _, version in counted]))

    def _put_values_back(self) -> set[int]:
        """The storages of which the sample says that others wrote to them."""
        with torch._C._DisableTorchDispatch():
            for storage, copy in self._copies:
                if storage.nbytes() != copy.nbytes():
                    storage.resize_(copy.nbytes())
                elif torch.equal(_bytes_of(storage), _bytes_of(copy)):
                    continue
                storage.copy_(copy)
            uncopied = [sample for sample in self._samples if sample.key in self._uncopied]
            return {sample.key for sample in uncopied if not _is_as_sampled(sample)}


class _Sample(NamedTuple):
    """Some bytes of a storage."""

    key: int
    storage: torch.UntypedStorage
    size: int
    part: torch.Tensor
    values: torch.Tensor


def _sample(key: int, storage: torch.UntypedStorage) -> _Sample:
    step = storage.nbytes() // _SAMPLED | 1  # odd, so that it meets all bytes of the elements
    part = _bytes_of(storage)[::step]
    return _Sample(key, storage, storage.nbytes(), part, part.clone())


def _is_as_sampled(sample: _Sample) -> bool:
    return sample.storage.nbytes() == sample.size and torch.equal(sample.part, sample.values)


def _storages(tensor: torch.Tensor) -> Iterator[torch.UntypedStorage]:
    """The storages of a tensor, those of its parts where it is made of several; none for a fake or meta tensor."""
    stack = [tensor]
    while stack:
        part = stack.pop()
        if _is_wrapped(part):  # inside a transform of torch.func
            stack.append(_unwrap(part))
        elif not _is_plain(part):
            stack.extend(_parts(part.detach()))
        elif not part.is_meta:
            yield part.untyped_storage()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has one storage of its own: it is strided, and its class leaves dispatch alone."""
    dispatches = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return not dispatches and tensor.layout is torch.strided


def _is_sparse(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.sparse_coo or tensor.layout in _COMPRESSED


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a sparse tensor, or a tensor of a wrapping class, is made of."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        parts = [getattr(tensor, name) for name in names]
        return [part for part in parts if is_a(part, torch.Tensor)]  # a DTensor names its DeviceMesh, too
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [getattr(tensor, name)() for name in _COMPRESSED.get(tensor.layout, ())]


def _is_alias(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    """Whether a tensor is still made of the same memory, seen in the same way."""
    if tensor.layout is not alias.layout or _kind(tensor) != _kind(alias):
        return False
    if tensor.layout is not torch.strided:
        parts = zip(_parts(tensor), _parts(alias), strict=True)
        return tensor.shape == alias.shape and all(_same_geometry(part, other) for part, other in parts)
    return tensor.is_nested or _same_geometry(tensor, alias)


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, bool, bool]:
    return tensor.dtype, tensor.is_conj(), tensor.is_neg()


def _same_geometry(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == alias.untyped_storage()._cdata
        and tensor.shape == alias.shape
        and tensor.stride() == alias.stride()
        and tensor.storage_offset() == alias.storage_offset()
    )


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    entered: set[int] = set()
    stack = [value]
    while stack:
        part = stack.pop()
        kind = type(part)
        if issubclass(kind, torch.Tensor):
            yield part
        elif id(part) not in entered and issubclass(kind, (tuple, list, dict)):
            entered.add(id(part))
            stack.extend(dict.values(part) if issubclass(kind, dict) else part)


def _function_modes() -> list[Any]:
    return [torch._C._get_function_stack_at(place) for place in range(torch._C._len_torch_function_stack())]


# What a call may write to

Writes = Callable[[tuple[Any, ...], Mapping[str, Any]], list[Any]]
"""Picks, of the arguments of a call, what the call may write to: tensors, or containers of them."""

_HAND_OUT_MEMORY = frozenset(
    ["__array__", "__cuda_array_interface__", "__dlpack__", "data_ptr", "numpy", "storage", "untyped_storage"]
)
"""What is written later to memory that these have handed out is seen by nobody."""
_WRITE_NO_VALUES = frozenset(["detach_", "record_stream", "requires_grad_", "retain_grad"])
_disabled = torch._C._disabled_torch_function_impl


def unseen(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Stands for calls that run code which no mode sees, and which may write to anything."""
    raise NotImplementedError


def find_writes(function: Any) -> Writes | None:
    """What calls of `function` may write to, besides an ``out=``; None for nothing.

    >>> find_writes(torch.add), find_writes(lambda tensor: tensor) is unseen
    (None, True)
    >>> weight, image = torch.ones(1), torch.zeros(1)
    >>> find_writes(torch.Tensor.copy_)((weight, image), {})
    [tensor([1.])]
    """
    if is_a(function, OpOverload):
        return _writes_of_schemas(function.__name__, [function._schema])
    if is_a(function, OpOverloadPacket):  # it may stand for any of its overloads
        overloads = [getattr(function, name) for name in function.overloads()]  # type: ignore[no-untyped-call]
        return _writes_of_schemas(function.__name__, [overload._schema for overload in overloads])
    if is_a(function, HigherOrderOperator) or not is_torchs(function):
        return unseen  # the mode that sees the call is off while it runs
    name = getattr(function, "__name__", "")
    if name == "__get__":  # of a property: a getset_descriptor has a name, a property a function
        owner = function.__self__
        name = getattr(owner, "__name__", None) or owner.fget.__name__
    return _writes_of_name(name) or _writes_of_signature(function)


def is_torchs(function: Any) -> bool:
    """Whether torch defines a function or class, in Python or in C.

    >>> is_torchs(torch.Tensor.add), is_torchs(torch.nn.functional.relu), is_torchs(is_torchs)
    (True, True, False)
    """
    module = getattr(function, "__module__", None)
    return module is None or module == "torch" or module.startswith("torch.")  # methods made in C have no module


def is_code_unseen(classes: Iterable[type]) -> bool:
    """Whether one of some classes has a ``__torch_function__`` or ``__torch_dispatch__`` that is not torch's: the modes
    that are entered are off while that runs."""
    return any(
        name in vars(one) and vars(one)[name] is not _disabled and not is_torchs(one)
        for kind in classes
        for one in kind.__mro__
        for name in ("__torch_function__", "__torch_dispatch__")
    )


@functools.cache
def _writes_of_name(name: str) -> Writes | None:
    """By the schemas of aten's functions of that name. What Python passes as ``out=`` has other names there."""
    if name in _WRITE_NO_VALUES:
        return None
    if name == "__setitem__" or name in _HAND_OUT_MEMORY:
        return partial(_given_at, frozenset([0]), frozenset())
    writes = _writes_of_schemas(name, torch._C._jit_get_schemas_for_operator(f"aten::{name}"), by_keyword=False)
    if writes is None and name.endswith("_") and not name.endswith("__"):  # in Python, as in torch.nn.init
        return partial(_given_at, frozenset([0]), frozenset())
    return writes


def _writes_of_schemas(name: str, schemas: Iterable[Any], *, by_keyword: bool = True) -> Writes | None:
    if "batch_norm" in name or "instance_norm" in name:  # not all of them say that they write to the statistics
        return _all_arguments
    written = [
        (position, argument)
        for schema in schemas
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write and "Tensor" in str(argument.type)
    ]
    positions = frozenset([position for position, argument in written if not argument.kwarg_only])
    names = frozenset([argument.name for _, argument in written if argument.kwarg_only and by_keyword])
    return partial(_given_at, positions, names) if positions or names else None


def _writes_of_signature(function: Any) -> Writes | None:
    """``F.relu`` and others write where they are told to; ``F.embedding`` rescales its weight to a ``max_norm``."""
    if type(function) is FunctionType:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        for flag in ("inplace", "max_norm"):
            if flag in names:
                return partial(_all_if_set, names.index(flag), flag)
    return None


def _all_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return [args, kwargs]


def _given_at(
    positions: frozenset[int], names: frozenset[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Any]:
    given = [args[position] for position in positions if position < len(args)]
    if len(given) < len(positions):  # one may have come by keyword, under a name that is Python's alone
        return [given, kwargs]
    return given + [kwargs[name] for name in names if name in kwargs]


def _all_if_set(position: int, flag: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    is_set = args[position] if position < len(args) else kwargs.get(flag)
    return [args, kwargs] if is_set else []

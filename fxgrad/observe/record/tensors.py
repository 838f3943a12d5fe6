"""Finds the tensors inside the values that programs pass around, describes them, and chooses the roots of backward.

Sources relied on: torch/csrc/autograd/variable.cpp (when ``grad_fn`` and ``is_leaf`` raise).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import Node as AutogradNode

from fxgrad.errors import NothingRequiresGradError
from fxgrad.graph import Path, TensorMeta
from fxgrad.graph.text import escape, format_path
from fxgrad.observe.accelerator.device import public_name
from fxgrad.observe.real_types import is_a

# Containers


class Step(NamedTuple):
    """How a member is reached: ``holder[key]``, or ``getattr(holder, key)``. ``position`` is its rank in the holder."""

    key: Any
    position: int
    is_attribute: bool = False


Route = tuple[Step, ...]


class Found(NamedTuple):
    """What `find_tensors` found: each tensor with its path, and the paths of objects that it could not look into."""

    tensors: list[tuple[Path, torch.Tensor]]
    opaque: list[tuple[Path, str]]


_PLAIN = frozenset(
    {bool, bytes, complex, float, int, str, torch.Size, torch.device, torch.dtype, torch.layout, type, type(None)}
)
_SHOWN_KEYS = (bool, bytes, complex, float, torch.device, torch.dtype, torch.layout, type(None))
"""Keys that their repr() describes, the same in every process."""


def find_tensors(value: Any, path: Path = ()) -> Found:
    """Every tensor in nested tuples, lists, mappings and dataclasses, depth first, in order; each container once.

    The steps of a path are exact ints and strs, whatever the keys of the mappings are.
    """
    found = Found([], [])
    for route, member in _members_at_any_depth(value):
        place = (*path, *map(make_path_step, route)) if route else path
        if is_a(member, torch.Tensor):
            found.tensors.append((place, member))
        else:
            found.opaque.append((place, type(member).__name__))
    return found


def is_opaque(value: Any) -> bool:
    """Whether a value is an object that may hold tensors and is no container, so that none are looked for in it."""
    is_plain = type(value) in _PLAIN or is_a(value, torch.Tensor)
    return not is_plain and _members(value) is None


def find_tensor_routes(value: Any) -> list[tuple[Route, torch.Tensor]]:
    """The same tensors, each with how a program reaches it."""
    return find_routes(torch.Tensor, value)


def find_routes(kind: type, value: Any) -> list[tuple[Route, Any]]:
    """The objects of a class that is no container, each with how a program reaches it."""
    return [(route, member) for route, member in _members_at_any_depth(value) if is_a(member, kind)]


def _members_at_any_depth(value: Any) -> Iterator[tuple[Route, Any]]:
    """The tensors, and the objects that are no containers, with their routes."""
    entered: dict[int, Any] = {}
    stack: list[tuple[Route, Any]] = [((), value)]
    while stack:
        route, value = stack.pop()
        if is_a(value, torch.Tensor):
            yield route, value
        elif type(value) not in _PLAIN and id(value) not in entered:
            entered[id(value)] = value
            members = _members(value)
            if members is None:
                yield route, value
            else:
                stack.extend([((*route, step), member) for step, member in reversed(members)])


def _members(value: Any) -> list[tuple[Step, Any]] | None:
    """What a container holds, in order; None for what is no container, or raises when it is looked into."""
    if type(value) is tuple or type(value) is list:
        return [(Step(rank, rank), member) for rank, member in enumerate(value) if type(member) not in _PLAIN]
    try:
        return _members_of_subclass(value)
    except Exception:  # the user's own class
        return None


def _members_of_subclass(value: Any) -> list[tuple[Step, Any]] | None:
    if is_a(value, (tuple, list)):
        return [(Step(rank, rank), member) for rank, member in enumerate(value)]
    if is_a(value, Mapping):
        return [(Step(key, rank), member) for rank, (key, member) in enumerate(value.items())]
    if dataclasses.is_dataclass(value) and not is_a(value, type):
        names = enumerate(field.name for field in dataclasses.fields(value))
        return [
            (Step(name, rank, is_attribute=True), getattr(value, name)) for rank, name in names if hasattr(value, name)
        ]
    return None


def make_path_step(step: Step) -> str | int:
    """A step of a Path, which is saved and shown: an exact str or int, the same in every process. Attributes have a dot.

    >>> make_path_step(Step("mask", 0)), make_path_step(Step("mask", 0, is_attribute=True)), make_path_step(Step(True, 0))
    ('mask', '.mask', 1)
    >>> make_path_step(Step(None, 0)), make_path_step(Step((1, "a"), 0)), make_path_step(Step(object(), 3))
    ('None', "(1, 'a')", '<object 3>')
    """
    key, position = step.key, step.position
    if step.is_attribute:
        return f".{key}"
    if is_a(key, str):
        text = str.__str__(key)
        return repr(text) if text.startswith(".") else text
    if is_a(key, int):
        return int.__int__(key)
    members = key if type(key) is tuple else (key,)
    if all(type(member) in (*_SHOWN_KEYS, int, str) for member in members):
        return repr(key)
    return f"<{type(key).__name__} {position}>"


# Shapes


class MetaTable:
    """Makes each TensorMeta once: a graph has few different ones."""

    def __init__(self) -> None:
        self._metas: dict[tuple[object, ...], TensorMeta] = {}
        self._alone: dict[tuple[object, ...], tuple[TensorMeta]] = {}

    def of_tensor(self, tensor: torch.Tensor) -> TensorMeta:
        """Describe a tensor. The shape of a strided nested tensor cannot be read: None."""
        layout = tensor.layout
        shape = None if layout is torch.strided and tensor.is_nested else tensor.shape
        try:
            return self._metas[shape, tensor.dtype, tensor.device, layout]
        except (KeyError, TypeError):
            return self._intern(shape, tensor.dtype, tensor.device, layout)

    def of_gradients(self, metadata: Sequence[Any]) -> tuple[TensorMeta, ...]:
        """Describe ``node._input_metadata``: the gradients that the node gets, one for each slot."""
        if len(metadata) != 1:
            return tuple([self._of_gradient(entry) for entry in metadata])
        (entry,) = metadata
        try:
            key = (*entry.shape, entry.dtype, entry.device)
            return self._alone[key]
        except KeyError:
            return self._alone.setdefault(key, (self._of_gradient(entry),))
        except (RuntimeError, TypeError):  # no shape, or a symbolic size that cannot be hashed
            return (self._of_gradient(entry),)

    def _of_gradient(self, metadata: Any) -> TensorMeta:
        try:
            shape = metadata.shape
        except RuntimeError:  # is_cpp_nested_tensor: torch/csrc/autograd/input_metadata.cpp
            shape = None
        return self._intern(shape, metadata.dtype, metadata.device, torch.strided)

    def _intern(
        self, shape: Sequence[object] | None, dtype: torch.dtype, device: torch.device, layout: torch.layout
    ) -> TensorMeta:
        key = (None if shape is None else tuple(shape), dtype, device, layout)
        try:
            return self._metas[key]
        except KeyError:
            pass
        except TypeError:  # a symbolic size that cannot be hashed
            return _tensor_meta(*key)
        meta = self._metas[key] = _tensor_meta(*key)
        return meta


def _tensor_meta(
    shape: tuple[object, ...] | None, dtype: torch.dtype, device: torch.device, layout: torch.layout
) -> TensorMeta:
    sizes = None if shape is None else tuple(size if type(size) is int else str(size) for size in shape)
    return TensorMeta(sizes, _last(dtype), public_name(device), _last(layout))


def _last(name: object) -> str:
    return str(name).rpartition(".")[2]


def read_stride(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The strides of a tensor; None for one that has none: sparse, or strided nested."""
    return None if tensor.layout is not torch.strided or tensor.is_nested else tensor.stride()


# Autograd and memory

Origin = tuple[AutogradNode, int]
"""A node, and which of its outputs a tensor is."""


def read_origin(tensor: torch.Tensor) -> Origin | None:
    """The grad_fn and output_nr of a tensor; None for a leaf and where no grad is required.

    None too for a view that a custom Function returned and whose memory has changed since, which has none any more:
    reading it raises (``handle_view_on_rebase`` in torch/csrc/autograd/variable.cpp).
    """
    try:
        node = tensor.grad_fn
    except RuntimeError:
        return None
    return None if node is None else (node, tensor.output_nr)


def is_leaf(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a leaf. For a view as above PyTorch refuses to say; it is none."""
    try:
        return tensor.is_leaf
    except RuntimeError:
        return False


def may_have_history(tensor: torch.Tensor) -> bool:
    """Whether a tensor may have a graph behind it; a view that requires grad always has."""
    return tensor.requires_grad and (tensor._is_view() or not is_leaf(tensor))


def identify_memory(tensor: torch.Tensor) -> object:
    """Tells the memory of a tensor apart from others, as long as it lives; the tensor itself where it has no storage."""
    try:
        return "storage", tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return "tensor", id(tensor)


# Where backward starts


class FoundRoots(NamedTuple):
    """The root tensors with where they were found, the rule in words, and what was passed over and why."""

    roots: list[tuple[Path, torch.Tensor]]
    rule: str
    skipped: tuple[str, ...]


def find_roots(output: Any, *, what: str = "the output of forward") -> FoundRoots:
    """Choose the roots as ``torch.autograd.backward(outputs, ones)`` would be called.

    An output with a scalar ``loss`` that requires grad (as Hugging Face models return) has that one root.
    Raises NothingRequiresGradError where nothing does.
    """
    with torch._C.DisableTorchFunction():  # neither the user's tensor classes nor modes that are entered are asked
        return _find_roots_in(output, what)


def _find_roots_in(output: Any, what: str) -> FoundRoots:
    loss = _loss_of(output)
    if loss is not None:
        others = [path for path, tensor in find_tensors(output, ("result",)).tensors if tensor is not loss]
        left = tuple([f"{format_path(path)}: backward starts from the loss alone" for path in others])
        return FoundRoots([(("result", "loss"), loss)], "the loss in the output of forward", left)
    found = find_tensors(output, ("result",))
    roots = [(path, tensor) for path, tensor in found.tensors if tensor.requires_grad]
    skipped = [
        f"{format_path(path)}: does not require grad" for path, tensor in found.tensors if not tensor.requires_grad
    ]
    skipped += [f"{format_path(path)}: a {escape(name)}, which fxgrad does not search" for path, name in found.opaque]
    if not roots:
        raise NothingRequiresGradError(
            f"nothing in {what} requires grad" + (f" ({'; '.join(skipped)})" if skipped else ""),
            "at least one tensor that requires grad, in nested tuples, lists, dicts or dataclasses",
            "check for torch.no_grad(), detach(), integer outputs or frozen parameters on the way to it",
        )
    several = f": {len(roots)} tensors, as if backward(outputs, ones) were called" if len(roots) > 1 else ""
    return FoundRoots(roots, what + several, tuple(skipped))


def _loss_of(output: Any) -> torch.Tensor | None:
    if is_a(output, torch.Tensor):
        return None
    try:
        loss = output.get("loss") if is_a(output, Mapping) else getattr(output, "loss", None)
    except Exception:  # the user's own class
        return None
    usable = is_a(loss, torch.Tensor) and loss.dim() == 0 and loss.requires_grad
    return loss if usable else None

"""Leaves the user's process as it was: what forward changes is put back afterwards, also when it raises.

What is put back:

- of every tensor that the model or the arguments hold, as parameter, buffer, attribute or member of a container: values,
  shape, strides, dtype, storage, version counter, ``requires_grad``, ``.grad`` with its values, hooks, attributes, class;
- of every module that they hold, also in attributes and containers that ``named_modules`` does not look into: its
  ``__dict__``, ``__slots__`` and class; so its parameters, buffers, submodules, hooks, flags and attributes;
- the lists, dicts, sets and deques in all these, nested to any depth, those of derived classes too: the same members in
  the same order (sets: as Python puts them);
- the random state of torch (of every device that is initialised), of Python, of numpy, and of the generators of these
  three that are held; seeds that wait for a device;
- the global hook tables; grad mode, autocast, the default dtype and device, deterministic algorithms, anomaly mode and
  the other settings in `fxgrad.observe.process_state`; modes of torch functions and of dispatch that were not left.

What is not: attributes of objects of other classes, class attributes, globals, closures and files, and what is reached
only through these; numpy arrays that share no memory with a tensor; attributes of scripted modules other than tensors;
``retain_grad`` on an input; the history that an in-place operation gives to an input that is a view or had a history
before; what torch or Python warn of once in a process. What other threads do meanwhile to what is put back is undone,
too: to the model, to random states and to settings that belong to the process.

Inside an autocast region of the caller, the casts of weights that the region keeps are dropped: those of the traced run
must not be used later, so the caller's next run casts again. Numbers that only tell one from another go on: autograd's
sequence numbers, and the ids of hook handles. Nodes of the user's own graph that are looked at for hooks keep an empty
table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fxgrad.observe.holdings import Holdings, Undo, contents_of
from fxgrad.observe.memory import remembered_memory
from fxgrad.observe.process_state import GLOBAL_HOOK_TABLES, random_state, settings, waiting_seeds
from fxgrad.observe.structure import tensors_in
from fxgrad.observe.tensor_state import gradient, gradient_flow_of, gradient_of, hook_tables, hooks_of


@contextmanager
def preserved(model: nn.Module, arguments: Any) -> Iterator[None]:
    """Whatever runs inside, `model`, what is in `arguments` and the global state are afterwards as they were."""
    with ExitStack() as stack:
        with torch._C.DisableTorchFunction():
            for undo in _steps(model, arguments):
                stack.callback(_without_torch_function, undo)
        yield


def _without_torch_function(undo: Undo) -> None:
    """The user's tensor subclasses, and modes that are entered, are not asked."""
    with torch._C.DisableTorchFunction():
        undo()


def _steps(model: nn.Module, arguments: Any) -> Iterator[Undo]:
    """The last one is undone first."""
    inputs = [tensor for _, tensor in tensors_in(arguments).tensors]
    held = Holdings([model, arguments, *inputs, *GLOBAL_HOOK_TABLES, *waiting_seeds()])
    tensors = held.tensors
    tables = [table for tensor in tensors for table in hook_tables(tensor) if table is not None]
    yield from random_state(held.generators)
    yield from settings()
    yield from held.undo_steps()
    yield from map(contents_of, _distinct(tables))
    yield from map(hooks_of, tensors)
    yield from map(gradient_of, tensors)
    grads = [grad for grad in map(gradient, tensors) if grad is not None]
    yield remembered_memory(_distinct([*tensors, *grads]))
    yield from map(gradient_flow_of, tensors)


def _distinct(things: Iterable[Any]) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())

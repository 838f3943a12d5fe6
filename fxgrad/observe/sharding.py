"""What ``fully_shard`` (FSDP2) does to the parameters of a model, and the state in which it keeps account of them.

``fully_shard`` replaces each parameter by a sharded one, a DTensor. Around forward and backward it gathers the shards into
an unsharded parameter and puts that into the module's table: the leaf of the autograd graph. After backward it reduces
the gradient of the unsharded parameter, writes the shard of it into ``.grad`` of the sharded one, and calls the
post-accumulate hooks of that itself.

Sources relied on: torch/distributed/fsdp/_fully_shard/, _fsdp_state.py, _fsdp_param_group.py (post_backward),
_fsdp_param.py (note "FSDP tensors") and _fsdp_collectives.py (foreach_reduce). Nothing of it is imported: a program
without sharded modules has not imported it either.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import nn

from fxgrad.observe.real_types import is_a

_PACKAGE = "torch.distributed.fsdp._fully_shard"

NO_SYNC = "FSDP does not reduce the gradient after this backward: set_requires_gradient_sync(False) is in effect"
NO_ALL_REDUCE = "FSDP does not reduce the gradient after this backward: set_requires_all_reduce(False) is in effect"


class ShardedParameter(NamedTuple):
    """A parameter that ``fully_shard`` manages.

    ``sharded``    what it has put into the module for good
    ``unsharded``  what forward uses, a leaf; None before the first forward
    ``original``   the number by which PyTorch knows the parameter that was replaced; None before torch 2.13
    ``refusal``    why FSDP does not reduce its gradient in the next backward, if so
    ``waits``      whether a gradient of an earlier backward waits to be reduced with the next one
    """

    sharded: torch.Tensor
    unsharded: torch.Tensor | None
    original: int | None
    refusal: str | None
    waits: bool


def find_sharded_parameters(modules: Iterable[nn.Module]) -> list[ShardedParameter]:
    """The parameters that ``fully_shard`` manages in these modules, each once."""
    return [
        _describe(parameter, group)
        for group in _find_groups(modules)
        for parameter in getattr(group, "fsdp_params", ())
    ]


def _describe(parameter: Any, group: Any) -> ShardedParameter:
    unsharded = getattr(parameter, "_unsharded_param", None)
    refusal = None
    if not getattr(group, "reduce_grads", True):
        refusal = NO_SYNC
    elif not getattr(group, "all_reduce_grads", True) and _is_replicated(group):
        refusal = NO_ALL_REDUCE
    waiting = (getattr(parameter, "unsharded_accumulated_grad", None), getattr(unsharded, "grad", None))
    return ShardedParameter(
        parameter.sharded_param,
        unsharded,
        getattr(parameter, "_orig_param_uid", None),
        refusal,
        any(gradient is not None for gradient in waiting)
        or bool(getattr(group, "reduce_scatter_unused_params", False)),
    )


def _is_replicated(group: Any) -> bool:
    """Whether the gradients are reduced over a second dimension of the mesh (HSDP), which may be put off."""
    return hasattr(getattr(group, "mesh_info", None), "replicate_process_group")


def find_original(tensor: torch.Tensor) -> int | None:
    """The number by which PyTorch knows a parameter that ``fully_shard`` has replaced; None for any other tensor."""
    number: int | None = vars(tensor).get("_fsdp_orig_uid")
    return number


def list_sharding_state(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """The ``__dict__`` of every object in which FSDP keeps account of these modules, to be put back after a run.

    It says whether a parameter is sharded now, what is under way, and which module is the root, as the first forward
    decides.
    """
    found: dict[int, Any] = {}
    stack: list[Any] = list(_find_states(modules))
    while stack:
        thing = stack.pop()
        if type(thing) in (list, tuple, set):
            stack.extend(thing)
        elif id(thing) not in found and _is_fsdps(type(thing)):
            found[id(thing)] = thing
            stack.extend(vars(thing).values())
    return [vars(thing) for thing in found.values()]


def reset_replicas(modules: Iterable[nn.Module]) -> None:
    """Let DistributedDataParallel start anew after a backward that may not have reached all parameters, or raised.

    Else the next forward raises "Expected to have finished reduction" (torch/csrc/distributed/c10d/reducer.cpp,
    ensure_prior_reduction_finished and reset_state).
    """
    for module in modules:
        if is_a(module, nn.parallel.DistributedDataParallel):
            module.reducer._reset_state()


def _is_fsdps(kind: type) -> bool:
    """Whether objects of a class are FSDP's own account: no module, no member of an enum, no tuple with a name."""
    return (
        kind.__module__.startswith(_PACKAGE)
        and kind.__dictoffset__ != 0
        and not issubclass(kind, (nn.Module, Enum, tuple, type))
    )


def _find_states(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """The state of each module that ``fully_shard`` was called on; a state may belong to several modules."""
    package = sys.modules.get(_PACKAGE)
    sharded_class = getattr(package, "FSDPModule", None)
    if sharded_class is None:
        return
    states: dict[int, Any] = {}
    for module in modules:
        if is_a(module, sharded_class):
            state = module._get_fsdp_state()
            states[id(state)] = state
    yield from states.values()


def _find_groups(modules: Iterable[nn.Module]) -> Iterator[Any]:
    for state in _find_states(modules):
        groups = getattr(state, "_fsdp_param_groups", None)  # a single one before torch 2.13
        yield from [state._fsdp_param_group] if groups is None else groups

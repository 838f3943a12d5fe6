"""Makes the records of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from fxgrad.graph import Module
from fxgrad.graph.text import strip_addresses
from fxgrad.observe.real_types import is_a, is_optimized
from fxgrad.observe.record.events import backward_kind
from fxgrad.observe.record.names import table_of

_TRACER = torch.fx.Tracer()


def module_record(
    module: nn.Module, paths: Sequence[str], hooks: tuple[int, ...], path_of: Callable[[nn.Module], str]
) -> Module:
    """The record of one module, `paths` being all that lead to it, and `hooks` the ids of those on it."""
    path, *aliases = paths
    prefix = f"{path}." if path else ""
    kind = backward_kind(module)
    parameters = table_of(module, "_parameters").items()
    return Module(
        path=path,
        aliases=tuple(aliases),
        type_name=type(module).__name__,
        training=module.training,
        full_backward_sticky=None if kind is None else kind.is_full,
        hooks=hooks,
        parameters=tuple([prefix + name for name, parameter in parameters if parameter is not None]),
        description=_description(module),
        is_fx_leaf=_TRACER.is_leaf_module(module, path),
        made_by=_made_by(module),
        wraps=path_of(module._orig_mod) if is_optimized(module) else None,
    )


def _description(module: nn.Module) -> str:
    """``LSTMCell(1000, 1000)``: what the module says of itself; its class alone where that raises."""
    try:
        extra = module.extra_repr()
    except Exception:  # the user's own code
        extra = ""
    name = type(module).__name__
    return f"{name}({strip_addresses(extra)})" if isinstance(extra, str) and "\n" not in extra else name


def _made_by(module: nn.Module) -> str | None:
    if is_a(module, torch.jit.ScriptModule):
        return "torch.jit"
    is_compiled = is_optimized(module) or vars(module).get("_compiled_call_impl") is not None
    return "torch.compile" if is_compiled else None

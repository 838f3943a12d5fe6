"""Registers noting hooks on modules, traces, then runs forward and backward for real and compares the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from comparison import Called, Comparison, Reality, Retained, compare_with, described
from same_graph import ids_in
from torch import nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.modules import module as module_hooks

import fxgrad
from fxgrad.graph import BackwardGraph, Gradient, HookKind, HookSite


class FromFunction(nn.Module):
    """A module whose forward is the given function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


@dataclass
class Notebook:
    """Makes hooks that write down what they get, each with a name of its own."""

    log: list[Called] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    retaining: list[torch.Tensor] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    answers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    """By a hook's name, what it returns for the grad_input and grad_output that it got."""
    handles: ExitStack = field(default_factory=ExitStack)

    def name(self, name: str) -> str:
        """Note a name that a site must bear."""
        self.names.add(name)
        return name

    def forget(self, name: str) -> list[Any]:
        """Take a name back: no hook was registered under it."""
        self.names.discard(name)
        return []

    def clear(self) -> None:
        """Forget what was noted of a run, but for the hooks' names."""
        self.log.clear()
        self.retaining.clear()

    def forget_calls(self) -> None:
        """Forget what a first backward did: the calls that were noted, and what it left on tensors."""
        self.log.clear()
        for tensor in self.retaining:
            tensor.grad = None

    def _named(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        function.__qualname__ = function.__name__ = name
        return function

    def _note(self, name: str, grad_input: Any, grad_output: Any, module: Any = None) -> Any:
        node = torch._C._current_autograd_node()
        tuples = [g if g is None else tuple(map(described, g)) for g in (grad_input, grad_output)]
        self.log.append(Called(name, *tuples, node=node, module=module))
        return self.answers[name](grad_input, grad_output) if name in self.answers else None

    def both(self, name: str) -> Callable[..., None]:
        """For a module hook or full hook."""
        return self._named(name, lambda module, gi, go: self._note(name, gi, go, module))

    def pre(self, name: str) -> Callable[..., None]:
        """For a full pre-hook."""
        return self._named(name, lambda module, go: self._note(name, None, go, module))

    def tensor(self, name: str) -> Callable[..., None]:
        return self._named(name, lambda grad: self._note(name, None, (grad,)))

    def on_node(self, name: str) -> Callable[..., None]:
        return self._named(name, lambda gi, go: self._note(name, gi, go))

    def before_node(self, name: str) -> Callable[..., None]:
        return self._named(name, lambda go: self._note(name, None, go))

    def several(self, name: str, mode: str) -> Callable[..., None]:
        """For a multi-grad hook."""
        return self._named(name, lambda grads: self._note(name, None, grads if mode == "all" else (grads,)))

    def on_several(self, tensors: Sequence[torch.Tensor], name: str, mode: str) -> Any:
        """A multi-grad hook, removed when the notebook is closed: PyTorch's part of an "all" hook holds the nodes of
        leaves, which hold the leaves, which hold it, and no garbage collector sees that."""
        handle = register_multi_grad_hook(tensors, self.several(name, mode), mode=mode)
        self.handles.callback(handle.remove)
        return handle

    def retain(self, tensor: torch.Tensor) -> None:
        tensor.retain_grad()
        self.retaining.append(tensor)

    def retained(self, ids: Mapping[Any, int]) -> list[Retained]:
        """What was left on the tensors that retain their gradients; on a leaf retain_grad does nothing."""
        tensors = {id(tensor): tensor for tensor in self.retaining if not tensor.is_leaf}
        return [
            Retained(ids.get(tensor.grad_fn), tensor.output_nr, described(tensor.grad)) for tensor in tensors.values()
        ]

    def leaf(self, name: str) -> Callable[..., None]:
        return self._named(name, lambda parameter: self._note(name, None, None))

    def legacy(self, module: nn.Module, name: str) -> Any:
        return module.register_backward_hook(self.both(name))

    def full(self, module: nn.Module, name: str, **options: Any) -> Any:
        return module.register_full_backward_hook(self.both(name), **options)

    def full_pre(self, module: nn.Module, name: str, **options: Any) -> Any:
        return module.register_full_backward_pre_hook(self.pre(name), **options)

    def everywhere(self, name: str, kind: HookKind) -> Any:
        """A global hook, removed when the notebook is closed."""
        register = {
            HookKind.GLOBAL_BACKWARD: module_hooks.register_module_backward_hook,
            HookKind.GLOBAL_FULL_BACKWARD: module_hooks.register_module_full_backward_hook,
            HookKind.GLOBAL_FULL_BACKWARD_PRE: module_hooks.register_module_full_backward_pre_hook,
        }[kind]
        handle = register(self.pre(name) if kind.is_full_pre else self.both(name))
        self.handles.callback(handle.remove)
        return handle

    def close(self) -> None:
        """Remove the global hooks and those on several tensors; let the nodes go that it has noted, which hold its hooks, which hold it."""
        self.handles.close()
        self.clear()
        self.kept.clear()
        # torch keeps it after the last hook is gone, and would refuse the other kind from then on
        module_hooks._global_is_full_backward_hook = None


def roots_in(value: Any) -> list[torch.Tensor]:
    """The tensors that backward starts from: all that require grad, in the order in which the output holds them.

    Where the output holds a scalar ``loss``, that alone.
    """
    if isinstance(value, torch.Tensor):
        return [value] if value.requires_grad else []
    loss = value.get("loss") if isinstance(value, Mapping) else getattr(value, "loss", None)
    if isinstance(loss, torch.Tensor) and loss.requires_grad and loss.shape == ():
        return [loss]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, member.name) for member in dataclasses.fields(value)]
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [root for member in members for root in roots_in(member)]


def backward(output: Any, loss: Callable[[Any], Any] | None = None) -> None:
    roots = roots_in(output if loss is None else loss(output))
    torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


Arguments = Sequence[Any] | Callable[[], Sequence[Any]]
"""A module's arguments; a function that makes them where tracing leaves hooks on the graph behind them."""


def compare(
    notebook: Notebook,
    model: nn.Module,
    args: Arguments = (),
    kwargs: dict[str, Any] | None = None,
    *,
    loss: Callable[[Any], Any] | None = None,
) -> tuple[BackwardGraph, Comparison]:
    """Trace, then run; the sites that fire must be what was noted, one by one, on their nodes and in that order."""
    graph = fxgrad.trace(model, _made(args), kwargs, loss=loss).graph
    graph.lint()
    notebook.log.clear()
    output = model(*_made(args), **(kwargs or {}))
    output = output if loss is None else loss(output)
    ids = ids_in(graph, roots_in(output))
    backward(output)
    return graph, compared(graph, notebook.log, ids)


def _made(args: Arguments) -> tuple[Any, ...]:
    return tuple(args() if callable(args) else args)


def compared(graph: BackwardGraph, log: Sequence[Called], ids: Mapping[Any, int] | None) -> Comparison:
    """Hold the sites against what was noted; `ids` are those of the live nodes, None: nodes are not compared."""
    return compare_with(graph, Reality(log, ids))


def short_name(site: HookSite) -> str:
    return site.hook.function


def assert_as_predicted(*args: Any, **kwargs: Any) -> BackwardGraph:
    graph, comparison = compare(*args, **kwargs)
    assert not comparison.wrong, "\n".join(comparison.wrong)
    return graph


def sites_of(graph: BackwardGraph, name: str) -> list[HookSite]:
    """The sites of one hook, in firing order."""
    return [site for site in graph.sites if short_name(site) == name]


def site_of(graph: BackwardGraph, name: str) -> HookSite:
    (site,) = sites_of(graph, name)
    return site


def statuses(gradients: Sequence[Gradient]) -> list[str]:
    return [gradient.status for gradient in gradients]


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    """Hooks that write down what they get; global ones are removed at the end."""
    made = Notebook()
    yield made
    made.close()

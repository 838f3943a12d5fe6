"""torch's own database of modules: each sample input with hooks of one kind everywhere, predicted and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from comparison import Comparison, Reality, compare_with
from hooks_everywhere import hook_everywhere, hook_inputs
from module_hooks import Notebook, backward, roots_in
from same_graph import NotTheSame, ids_in
from tally import Tally, without_numbers
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db

import fxgrad
from fxgrad.errors import FxgradError
from fxgrad.graph import BackwardGraph, HookKind

ON_TENSORS_AND_NODES = [kind for kind in HookKind if not kind.is_module]
FULL = [kind for kind in HookKind if kind.is_full or kind.is_full_pre]
WAYS = {
    **{kind.value: [kind] for kind in HookKind if kind.is_module},
    "all six kinds on tensors and nodes": ON_TENSORS_AND_NODES,
    "those, and full hooks and pre-hooks, global ones, too": [*FULL, *ON_TENSORS_AND_NODES],
}
"""A kind on modules alone, as each changes the graph; the others together, so that their order is seen."""

seed = torch.default_generator.manual_seed
"""On the CPU alone: torch.manual_seed formats a stack trace for every kind of device that is not there."""
NO_ROOTS = "nothing in the output requires grad"


@dataclass(frozen=True)
class Case:
    """A model and its inputs, made anew for each run: ``build()`` gives the model, ``inputs()`` args and kwargs.

    ``has_hooks`` says that there may be hooks on it already, which note nothing.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    has_hooks: bool = False


Register = Callable[[Notebook, nn.Module], None]


@dataclass(frozen=True)
class Hooks:
    """Hooks to register on a model, and on the inputs of each of its runs."""

    on_model: Register
    on_inputs: Callable[[Notebook, Sequence[Any]], None] = lambda notebook, inputs: None

    @classmethod
    def of_kinds(cls, *kinds: HookKind) -> Hooks:
        """Hooks of each of the kinds, everywhere."""
        return cls(
            lambda notebook, model: [hook_everywhere(notebook, kind, model) for kind in kinds],
            lambda notebook, inputs: [hook_inputs(notebook, kind, inputs) for kind in kinds],
        )


@cache
def module_cases(*, training: bool) -> tuple[tuple[str, Case | None], ...]:
    """Every sample input of every module; None where there is nothing to call the module with."""
    return tuple(_module_cases(training))


def _module_cases(training: bool) -> Iterator[tuple[str, Case | None]]:
    for info in module_db:
        seed(0)
        samples = info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
        )
        for number, sample in enumerate(samples):
            name = f"{info.name} sample {number} {'train' if training else 'eval'}"
            yield name, None if sample.forward_input is None else _case(name, info, sample, training)


def _case(name: str, info: Any, sample: Any, training: bool) -> Case:
    made, given = sample.constructor_input, sample.forward_input

    def build() -> nn.Module:
        seed(0)
        model = info.module_cls(*made.args, **made.kwargs).to(torch.float32).train(training)
        if isinstance(model, LazyModuleMixin):  # its parameters get their shapes by a first run
            model(*detached(tuple(given.args)), **detached(dict(given.kwargs)))
        return model

    leaves = _takes_leaves(build, given)

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = copied((tuple(given.args), dict(given.kwargs)))
        return (args, kwargs) if leaves else computed((args, kwargs))

    return Case(name, build, inputs)


def _takes_leaves(build: Callable[[], nn.Module], given: Any) -> bool:
    """Whether the inputs may be leaves: what is changed in place may not."""
    args, kwargs = copied((tuple(given.args), dict(given.kwargs)))
    try:
        build()(*args, **kwargs)
    except RuntimeError as error:
        return "a leaf Variable that requires grad" not in str(error)
    return True


def mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """The same nested value with other tensors."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(function, member) for key, member in value.items()}
    return type(value)(mapped(function, member) for member in value) if type(value) in (tuple, list) else value


def copied(value: Any) -> Any:
    """Leaves of their own, which require grad as before."""
    return mapped(lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad), value)


def computed(value: Any) -> Any:
    """Tensors that are no leaves, where they require grad."""
    return mapped(lambda tensor: tensor * 1 if tensor.requires_grad else tensor, value)


def detached(value: Any) -> Any:
    """Tensors that require no grad."""
    return mapped(lambda tensor: tensor.detach().clone(), value)


# Predicting and running


def hold(case: Case, hooks: Hooks, tally: Tally) -> None:
    """Predict what every hook will get, run backward, and count how that agrees."""
    with hooked(case, hooks) as (notebook, model):
        tally.refused.update(map(without_numbers, notebook.refused))
        graph, refusal = _traced(case, hooks, notebook, model)
        comparison, real_refusal = _run(case, hooks, notebook, model, graph)
    if real_refusal is not None:
        _count_refusal(case, hooks, tally, graph, real_refusal)
    elif graph is None:
        comparison.add("refusal", f"{refusal}; PyTorch runs it")
        tally.hold(case.name, comparison)
    else:
        tally.hold(case.name, comparison)


@contextmanager
def hooked(case: Case, hooks: Hooks) -> Iterator[tuple[Notebook, nn.Module]]:
    """A fresh model with its hooks; global ones are removed afterwards."""
    notebook = Notebook()
    model = case.build()
    try:
        hooks.on_model(notebook, model)
        yield notebook, model
    finally:
        notebook.close()


def _inputs(case: Case, hooks: Hooks, notebook: Notebook) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = case.inputs()
    hooks.on_inputs(notebook, (args, kwargs))
    seed(1)
    return args, kwargs


def _traced(case: Case, hooks: Hooks, notebook: Notebook, model: nn.Module) -> tuple[BackwardGraph | None, str | None]:
    args, kwargs = _inputs(case, hooks, notebook)
    try:
        graph = fxgrad.trace(model, args, kwargs).graph
    except FxgradError as error:
        return None, str(error)
    graph.lint()
    return graph, None


def _run(
    case: Case, hooks: Hooks, notebook: Notebook, model: nn.Module, graph: BackwardGraph | None
) -> tuple[Comparison, str | None]:
    """Forward and backward for real, and the comparison; or what PyTorch refuses."""
    notebook.clear()
    refusal, roots = _forward(model, *_inputs(case, hooks, notebook))
    if refusal is not None:
        return Comparison(), refusal
    notebook.log.clear()  # forward may run a nested backward
    for tensor in notebook.retaining:
        tensor.grad = None
    names, retaining = set(notebook.names), len(notebook.retaining)
    try:
        ids = {} if graph is None else ids_in(graph, roots)
    except NotTheSame as error:
        comparison = Comparison()
        comparison.add("node", f"the records are of another graph: {error}")
        return comparison, None
    refusal = _backward(roots)
    if refusal is not None or graph is None:
        return Comparison(), refusal
    del notebook.retaining[retaining:]
    reality = Reality(
        [called for called in notebook.log if called.hook in names],  # not of hooks that backward itself registered
        ids,
        Paths((module, path) for path, module in model.named_modules()),
        retained=notebook.retained(ids),
        registered=names,
        others=case.has_hooks,
    )
    return compare_with(graph, reality), None


class Paths(dict[nn.Module, str]):
    """The path of each module; forward may call others, which only global hooks see."""

    def __missing__(self, module: nn.Module) -> str:
        return f"<{type(module).__name__}>"


def _forward(model: nn.Module, args: Any, kwargs: Any) -> tuple[str | None, list[torch.Tensor]]:
    try:
        roots = roots_in(model(*args, **kwargs))
    except Exception as error:  # whatever the module raises with these hooks
        return _text("forward", error), []
    return (None, roots) if roots else (NO_ROOTS, [])


def _backward(roots: list[torch.Tensor]) -> str | None:
    try:
        backward(roots)
    except Exception as error:
        return _text("backward", error)
    return None


def _text(what: str, error: Exception) -> str:
    lines = str(error).splitlines()
    return f"in {what}: {type(error).__name__}: {lines[0] if lines else ''}"


def _count_refusal(case: Case, hooks: Hooks, tally: Tally, graph: BackwardGraph | None, refusal: str) -> None:
    """PyTorch refuses it by itself, on a model that was never traced; and what forward refuses, trace refuses."""
    comparison = Comparison()
    with hooked(case, hooks) as (notebook, model):
        alone, roots = _forward(model, *_inputs(case, hooks, notebook))
        if alone is None:
            alone = _backward(roots)
    if alone != refusal:
        comparison.add("refusal", f"after a trace PyTorch refuses: {refusal}; without one: {alone}")
    if graph is not None and not refusal.startswith("in backward"):
        comparison.add("refusal", f"PyTorch refuses: {refusal}; it was traced all the same")
    if comparison.differences:
        tally.hold(case.name, comparison)
    else:
        tally.skip(refusal)


def one_case_of_each(training: bool) -> Iterator[Case]:
    """The first input of each class that there is a module for."""
    seen: set[str] = set()
    for name, case in module_cases(training=training):
        kind = name.partition(" ")[0]
        if case is not None and kind not in seen:
            seen.add(kind)
            yield case

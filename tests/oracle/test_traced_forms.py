"""Modules of torch.nn that torch.fx and torch.export have traced, held against real backward and against Python.

One input of each class. What PyTorch cannot trace is counted as skipped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from interpreted import interpret
from module_cases import FULL, ON_TENSORS_AND_NODES, Case, Hooks, detached, hold, one_case_of_each, seed
from tally import Tally, tally_of, without_numbers
from torch import fx, nn

import fxgrad
from fxgrad.errors import FxgradError
from fxgrad.graph import BackwardGraph

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

HOOKS = "modules of torch.nn that were traced, full hooks and those on tensors and nodes"
NODES = "modules of torch.nn that were traced: the nodes of the graph, and the modules before"


class CallsNothing(fx.Tracer):
    """Traces into every module."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return False


def symbolic(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    del args, kwargs
    return fx.symbolic_trace(model)


def inlined(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    del args, kwargs
    return fx.GraphModule(model, CallsNothing().trace(model))


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    return torch.export.export(model, args, kwargs).module()


FORMS = {"symbolically traced": symbolic, "traced into every module": inlined, "exported": exported}


def traced(case: Case, form: str) -> Case:
    """The same case with a model that is traced each time that it is built."""

    def build() -> nn.Module:
        args, kwargs = detached(case.inputs())
        return FORMS[form](case.build(), args, kwargs)

    return replace(case, build=build)


def build_and_run(case: Case) -> nn.Module | str:
    """The traced model; why PyTorch cannot trace it, or run what it traced, if it cannot."""
    try:
        args, kwargs = case.inputs()
        model = case.build()
        model(*args, **kwargs)
    except Exception as error:  # whatever the tracer says
        return without_numbers(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:80]}")
    return model


def graph_of(case: Case, model: nn.Module) -> BackwardGraph | None:
    args, kwargs = case.inputs()
    seed(1)
    try:
        return fxgrad.trace(model, args, kwargs).graph
    except FxgradError:
        return None


def compare_nodes(case: Case, model: nn.Module, graph: BackwardGraph) -> tuple[int, list[str]]:
    """How many nodes of the graph torch.fx ran by itself, and those whose grad_fn is tied to another node here."""
    by_name = {fx_node.name: fx_node.graph_node for fx_node in graph.forward}
    tied = {(by_name.get(node.fx_node), node.name) for node in graph.nodes if node.fx_node is not None}
    args, kwargs = case.inputs()
    seed(1)
    run = interpret(model, *args, **kwargs)
    made = [(name, grad_fn.name()) for name, each in run.made.items() for grad_fn in each if grad_fn in run.reached]
    return len(made), [f"{name} made {grad_fn}" for name, grad_fn in made if (name, grad_fn) not in tied]


def compare_modules(graph: BackwardGraph, python: BackwardGraph) -> tuple[int, list[str]]:
    """How many nodes know the module that they were in, and those that a call of another module makes in Python."""
    nodes = [node for node in graph.nodes if not node.kind.is_leaf]
    others = [node for node in python.nodes if not node.kind.is_leaf]
    if [node.name for node in nodes] != [node.name for node in others]:
        return 0, []  # torch.export has other operators
    by_name = {fx_node.name: fx_node.traced_in for fx_node in graph.forward}
    compared, wrong = 0, []
    for node, other in zip(nodes, others, strict=True):
        inside = by_name.get(node.fx_node or "")
        if inside is not None and other.call is not None:
            compared += 1
            path = other.call.rpartition("#")[0]
            wrong += [] if inside == path else [f"{node.label} was in {inside!r}; in Python {path!r} makes it"]
    return compared, wrong


RUNS = [(form, training) for form in FORMS for training in (True, False) if training or form != "exported"]
"""torch.export takes a second for each module, and dropout is the one difference there."""


@pytest.mark.parametrize(("form", "training"), RUNS)
def test_no_hook_on_a_traced_module_is_predicted_wrongly_and_no_node_tied_wrongly(form, training):
    row = f"{form}, {'train' if training else 'eval'}"
    hooks, tally = tally_of(HOOKS, row), tally_of(NODES, row, properties=("node", "module"))
    nodes = modules = 0
    for case in one_case_of_each(training):
        formed = traced(case, form)
        model = build_and_run(formed)
        if isinstance(model, str):
            hooks.skip(model)
            tally.skip(model)
            continue
        hold(formed, Hooks.of_kinds(*FULL, *ON_TENSORS_AND_NODES), hooks)
        graph = graph_of(formed, model)
        if graph is None:
            tally.skip("nothing requires grad")
            continue
        tally.tried += 1
        nodes += count(tally, case, "node", compare_nodes(formed, model, graph))
        python = graph_of(case, case.build())
        modules += 0 if python is None else count(tally, case, "module", compare_modules(graph, python))
    tally.note = f"{nodes} nodes of graphs, {modules} nodes with the module that they were in"
    hooks.assert_nothing_is_wrong()
    tally.assert_nothing_is_wrong()
    assert tally.tried >= 40
    assert nodes >= 40


def count(tally: Tally, case: Case, what: str, compared: tuple[int, list[str]]) -> int:
    number, wrong = compared
    tally.wrong[what] += len(wrong)
    tally.texts += [f"{case.name}: {text}" for text in wrong]
    return number

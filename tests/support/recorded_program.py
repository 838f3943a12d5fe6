"""Runs a small program with hooks under `fxgrad.record`, predicts, runs its backward, and holds the one to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Reality, compare_with
from module_hooks import Notebook, backward, roots_in
from same_graph import ids_in
from torch import nn
from torch.autograd.graph import get_gradient_edge

import fxgrad
from fxgrad.graph import BackwardGraph
from fxgrad.predict import BackwardCall, predict


def held(
    notebook: Notebook,
    program: Callable[[], Any],
    *,
    model: nn.Module | None = None,
    inputs: Sequence[torch.Tensor] | None = None,
    api: str = "backward",
) -> tuple[BackwardGraph, list[str]]:
    """The graph with its predictions, none of which is wrong, and the names of the hooks as they were called.

    ``program`` registers hooks that the notebook makes, and returns what backward starts from.
    """
    model = nn.Identity() if model is None else model
    with fxgrad.record(model) as recording:
        roots = roots_in(program())
    graph = recording.trace(roots).graph
    ids = ids_in(graph, roots)
    if inputs is not None:
        edges = [get_gradient_edge(tensor) for tensor in inputs]
        graph = predict(graph, BackwardCall(tuple((ids[edge.node], edge.output_nr) for edge in edges), api))
    graph.lint()
    notebook.log.clear()
    _run(roots, inputs, api)
    paths = {module: path for path, module in model.named_modules()}
    reality = Reality(notebook.log, ids, paths, retained=notebook.retained(ids), registered=notebook.names)
    comparison = compare_with(graph, reality)
    assert not comparison.wrong, "\n".join(comparison.wrong)
    assert comparison.sites
    return graph, [str(called.hook) for called in notebook.log]


def _run(roots: list[torch.Tensor], inputs: Sequence[torch.Tensor] | None, api: str) -> None:
    if inputs is None:
        backward(roots)
    elif api == "grad":
        torch.autograd.grad(roots, inputs, [torch.ones_like(root) for root in roots])
    else:
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots], inputs=inputs)

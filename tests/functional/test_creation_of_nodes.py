"""Which module call made which node, held against torch's own word: `torch.autograd.graph.node_creation_hook`, from 2.14.

fxgrad decides it from autograd's sequence numbers around each call, which every version has; this hook says it of each
node at the moment when the node is made. It would not make fxgrad know more: it is of one thread, so it does not see the
nodes that forward makes in others, and those of a recomputation and of a nested backward are made after the prediction.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from module_hooks import Notebook
from random_hooked_models import HOOKED, STRANGE, hooked_model, is_refused
from torch import nn
from zoo import ZOO

import fxgrad
from fxgrad.graph import BackwardGraph, NodeKind

pytestmark = [
    pytest.mark.skipif(not hasattr(torch.autograd.graph, "node_creation_hook"), reason="new in torch 2.14"),
    pytest.mark.filterwarnings("ignore"),
]

Key = tuple[str, int]
"""The name and the sequence number of a node."""
Call = tuple[str, int]
"""The path of a module, and the number of one of its calls, from 1."""
STRANGER = "?"
"""A module that the model does not hold."""


class Witness:
    """Notes of each node that is made which module call was running then."""

    def __init__(self, model: nn.Module) -> None:
        self.made: dict[Key, Call | None] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._running: list[Call] = []
        self._counts: Counter[str] = Counter()

    @contextlib.contextmanager
    def looking(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        call_module = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module), STRANGER)
            self._counts[path] += 1
            self._running.append((path, self._counts[path]))
            try:
                return call_module(module, *args, **kwargs)
            finally:
                self._running.pop()

        with monkeypatch.context() as patch, torch.autograd.graph.node_creation_hook(self._note):
            patch.setattr(nn.Module, "__call__", call)
            yield

    def _note(self, node: Any) -> None:
        self.made[node.name(), node._sequence_nr()] = self._running[-1] if self._running else None


def calls_told(graph: BackwardGraph) -> dict[Key, Call | None]:
    """What fxgrad says: of each node with a number of its own, but for those that full hooks add."""
    calls = {call.id: (call.path, call.index) for call in graph.calls}
    nodes = [node for node in graph.nodes if node.sequence_nr is not None and node.kind is not NodeKind.BACKWARD_HOOK]
    return {(node.name, node.sequence_nr or 0): calls.get(node.call or "") for node in nodes if not node.kind.is_leaf}


def assert_told_as_made(model: nn.Module, args: Any, kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many nodes were seen being made."""
    with fxgrad.record(model) as recording:
        witness = Witness(model)
        with witness.looking(monkeypatch):
            output = model(*args, **kwargs)
        told = calls_told(recording.trace(output).graph)
    seen = {key: call for key, call in witness.made.items() if key in told and (call is None or call[0] != STRANGER)}
    assert {key: told[key] for key in seen} == seen
    assert seen or not any(told.values())
    return len(seen)


@pytest.mark.parametrize("name", ZOO)
def test_each_node_was_made_by_the_call_that_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, args, kwargs = ZOO[name]()
    assert_told_as_made(model, args, kwargs, monkeypatch)


@pytest.mark.parametrize("grammar", ["no change in place", "changes in place", "runs again in backward", "checkpoints"])
def test_each_node_of_random_models_was_made_by_the_call_that_is_told(
    grammar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = 0
    for seed in range(60):
        with contextlib.closing(Notebook()) as notebook:
            made = hooked_model(random.Random(seed), {**HOOKED, **STRANGE}[grammar], notebook)
            if not is_refused(made, "record"):
                nodes += assert_told_as_made(made.model, made.args, {}, monkeypatch)
    assert nodes > 60

"""The walk over next_functions: in which order nodes come, how deep graphs are walked, and what is left alive."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from walked_graphs import Scaled, leaf, records

import fxgrad
from fxgrad.graph import Edge
from fxgrad.observe.autograd.walk import free_without_recursion, walk

# Order


def test_every_edge_leads_to_a_larger_id():
    x, y = leaf(), leaf()
    shared = x * y
    for node in records(shared.exp() + shared.sin() * y, shared):
        assert all(edge.next_node is None or edge.next_node > node.id for edge in node.edges)


def test_a_root_behind_another_root_comes_after_it():
    x = leaf() * 1
    assert [node.name for node in records(x, x.exp())[:2]] == ["ExpBackward0", "MulBackward0"]


def test_a_root_given_twice_is_one_node():
    x = leaf() * 1
    assert [node.name for node in records(x, x)] == ["MulBackward0", "torch::autograd::AccumulateGrad"]


def test_the_same_program_run_again_gives_the_same_ids_labels_and_edges():
    def program() -> list[tuple[int, str, tuple[Edge, ...]]]:
        x, y = leaf(), leaf()
        z = torch.stack([x * y, y.exp(), x])
        return [(node.id, node.label, node.edges) for node in records((z * z).sum(), z.cos())]

    assert program() == program()


# Deep graphs, and what is left alive


def chain(length: int) -> torch.Tensor:
    value = leaf(1)
    for _ in range(length):
        value = value * 1.0001
    return value


def test_a_graph_100_000_nodes_deep_is_recorded_without_recursion():
    value = chain(100_000)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(500)
    try:
        made = records(value)
    finally:
        sys.setrecursionlimit(limit)
    assert len(made) == 100_001
    assert made[-2].edges[0].next_node == 100_000


FREED = """
import torch
from fxgrad.observe.autograd.node_records import make_node_records
from fxgrad.observe.autograd.walk import walk
value = torch.ones(1, requires_grad=True)
for _ in range(150_000):
    value = value * 1.0001
make_node_records(walk([value.grad_fn]))
del value
print("alive")
"""


def test_a_deep_graph_is_freed_after_its_walk_without_overflowing_the_stack(repository):
    done = subprocess.run([sys.executable, "-c", FREED], cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_each_segment_of_a_deep_graph_is_held_by_the_node_before_it_the_last_node_first(monkeypatch):
    monkeypatch.setattr("fxgrad.observe.autograd.walk.SEGMENT", 2)
    order = walk([chain(5).grad_fn]).order
    free_without_recursion(order)
    held = [node.metadata.get("fxgrad.keepalive") for node in order]
    assert held == [[order[2], order[1]], None, [order[4], order[3]], None, [order[5]], None]


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
def test_no_node_is_alive_once_the_trace_and_the_tensors_are_gone(monkeypatch, deep):
    monkeypatch.setattr("fxgrad.observe.autograd.walk.DEEP", 1 if deep else 10_000)
    output = Scaled.apply(leaf() * 1, 3) * 2
    alive = weakref.ref(output.grad_fn.next_functions[0][0])  # C++ nodes take no weak references
    trace = fxgrad.capture(output)
    assert alive() is not None
    del output
    assert alive() is None
    assert [node.name for node in trace.graph.nodes][1] == "ScaledBackward"


def test_a_trace_leaves_no_node_of_its_forward_alive():
    alive: list[weakref.ref[object]] = []

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = Scaled.apply(x, 3)
            alive.append(weakref.ref(output.grad_fn))
            return output

    trace = fxgrad.trace(Model(), leaf())
    assert trace.graph.nodes[0].name == "ScaledBackward"
    assert alive[0]() is None


def test_garbage_collection_is_afterwards_as_it_was():
    x = leaf() * 1
    records(x)
    assert gc.isenabled()
    gc.disable()
    try:
        records(x)
        assert not gc.isenabled()
    finally:
        gc.enable()

"""The leaves behind every node, against networkx's descendants."""

import networkx
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.graph import NodeKind
from fxgrad.rules.subject import LeavesBehind


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = checkpoint(self.first, x, use_reentrant=True)
        branch = self.second(x).tanh()
        return hidden * branch + self.third(branch) + x.detach()


@pytest.fixture
def graph():
    return fxgrad.trace(Net(), torch.ones(2, 4, requires_grad=True)).graph


def wanted_sets(graph):
    yield {node.id for node in graph.nodes}
    yield from ({node.id} for node in graph.nodes)


def test_what_is_behind_a_node_is_what_can_be_reached_from_it(graph):
    edges = [(node.id, edge.next_node) for node in graph.nodes for edge in node.edges if edge.next_node is not None]
    reached = networkx.DiGraph(edges)
    for wanted in wanted_sets(graph):
        behind = LeavesBehind(graph, wanted)
        for start in wanted:
            ids = sorted({start, *networkx.descendants(reached, start)})
            names = [graph.nodes[node].variable for node in ids if graph.nodes[node].variable is not None]
            count, found = behind.list_leaves([start])
            assert (count, list(found)) == (len(names), names)
            kinds = {graph.nodes[node].kind for node in ids}
            assert behind.lead_to_nesting([start]) == (NodeKind.CHECKPOINT in kinds)


def test_several_starts_are_taken_together(graph):
    behind = LeavesBehind(graph, {node.id for node in graph.nodes})
    leaves = [node for node in graph.nodes if node.variable is not None]
    count, names = behind.list_leaves([node.id for node in leaves[::-1]])
    assert (count, list(names)) == (len(leaves), [node.variable for node in leaves])

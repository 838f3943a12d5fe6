"""Graphs with some fields changed, and what lint says of them."""

import pytest
from msgspec.structs import replace

from fxgrad.graph.check import GraphLintError


def with_record(graph, collection, index, /, **fields):
    """The graph with some fields of one of its records changed."""
    records = list(getattr(graph, collection))
    records[index] = replace(records[index], **fields)
    return replace(graph, **{collection: tuple(records)})


def with_edge(graph, node, index, **fields):
    edges = list(graph.nodes[node].edges)
    edges[index] = replace(edges[index], **fields)
    return with_record(graph, "nodes", node, edges=tuple(edges))


def with_hook(graph, index, **fields):
    """The graph with a hook changed, in its sites as well."""
    changed = with_record(graph, "hooks", index, **fields)
    sites = (replace(site, hook=changed.hooks[site.hook.id]) for site in graph.sites)
    return replace(changed, sites=tuple(sites))


def problems_of(graph):
    with pytest.raises(GraphLintError) as refused:
        graph.lint()
    return refused.value.problems


NODE = "node 0 (AddmmBackward0_0)"
CALL = 'call "fc#1"'
SITE = "sites[0] (hook 0, print_sizes)"

"""Graphs with some fields changed, and what lint says of them."""

from dataclasses import replace

import pytest

from fxgrad.graph.lint import GraphLintError


def with_record(graph, collection, index, /, **fields):
    """The graph with some fields of one of its records changed."""
    records = list(getattr(graph, collection))
    record = records[index]
    records[index] = record._replace(**fields) if isinstance(record, tuple) else replace(record, **fields)
    return replace(graph, **{collection: tuple(records)})


def with_edge(graph, node, index, **fields):
    edges = list(graph.nodes[node].edges)
    edges[index] = edges[index]._replace(**fields)
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

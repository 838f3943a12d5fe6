"""Gradients that train nothing: FXG205, those that are zero, and FXG207, those of leaves that the optimizer does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import BackwardGraph, Explanation, HookSite, ModuleCall, Node, Variable
from fxgrad.graph.text import escape, join_words, name_module, pluralize, quote_code
from fxgrad.predict import keeps_zeros, returns_zeros
from fxgrad.rules.data_flow import begin_at, end_at, name_operation
from fxgrad.rules.rule import Page, Rule

# FXG205

_FXG205 = Page(
    code="FXG205",
    title="The gradient is all zeros",
    what="""
    backward reaches a parameter and its .grad is a tensor of zeros: the optimizer runs, and nothing is learned.
    """,
    why="""
    The derivative of a step function is zero wherever it exists. For round, floor, ceil, trunc, sign, comparisons in
    place, division with a rounding_mode and random draws such as bernoulli, autograd returns zeros whichever gradient
    arrives. relu, clamp, hardtanh and the like return zeros where their input is in a flat part, and sigmoid and tanh
    where the result is rounded to its limit: if that holds for every element, nothing but zeros goes on from there.
    """,
    source="tools/autograd/derivatives.yaml",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> torch.round(linear(torch.ones(4, 3))).sum().backward()
    >>> linear.weight.grad.abs().sum().item()
    0.0
    """,
    fix="""
    To train through a step function, pass its gradient on unchanged, as a straight-through estimator does:
    x + (torch.round(x) - x).detach(). Where every element is in a flat part, look at what comes before: its
    initialization, its scale and its learning rate; or use a function without a flat part, such as leaky_relu.
    """,
)


def _explain_zeros(graph: BackwardGraph) -> Iterator[Explanation]:
    """Leaves that only zeros go to, those with the same first node that returns zeros together."""
    sources = _find_sources_of_zeros(graph)
    groups: dict[int, list[Variable]] = {}
    for leaf in graph.variables:
        if leaf.node is not None and leaf.is_leaf and sources.get(leaf.node) is not None and not leaf.earlier:
            groups.setdefault(sources[leaf.node] or 0, []).append(leaf)
    yield from (_explain_zeros_of(graph, graph.nodes[node], leaves) for node, leaves in groups.items())


def _find_sources_of_zeros(graph: BackwardGraph) -> dict[int, int | None]:
    """Of each node that backward reaches: the node that made zeros of all that it passes on; None if that may be more.

    Derivatives are linear, so zeros stay zeros where they are finite; what custom Functions and hooks return is not known.
    """
    sources: dict[int, int | None] = dict.fromkeys([root.node for root in graph.roots])
    for node in graph.nodes:
        if node.id not in sources:
            continue
        source = node.id if returns_zeros(node) else sources[node.id] if keeps_zeros(node) else None
        if node.kind.decides_alone or any(site.hook.may_return is not False for site in _list_sites(graph, node)):
            source = None
        sources[node.id] = source
        for edge in node.edges:
            if edge.next_node is not None:
                sources[edge.next_node] = source if sources.get(edge.next_node, source) is not None else None
    return sources


def _list_sites(graph: BackwardGraph, node: Node) -> Sequence[HookSite]:
    return graph.sites_by_node.get(node.id, ())


def _explain_zeros_of(graph: BackwardGraph, node: Node, leaves: Sequence[Variable]) -> Explanation:
    fx_node = None if node.fx_node is None else graph.fx_nodes_by_name[node.fx_node]
    name = quote_code(node.short_name) if fx_node is None else name_operation(fx_node)
    flat = (
        f"every element of what {name} got in this run is where its derivative is zero"
        if node.saturated
        else "its derivative is zero everywhere"
    )
    return Explanation(
        code="FXG205",
        severity="warning",
        headline=f"only zeros go back from {name}{end_at(node.source)} to {_join_names(leaves)}",
        because=(
            f"{escape(node.label)} returns zeros whichever gradient it gets: {flat}. Every path from the "
            f"roots to {pluralize(len(leaves), 'this leaf', plural='these leaves')} goes through such a node. (tools/autograd/derivatives.yaml)"
        ),
        fix=(
            f"move the input of {name} out of the flat part (initialization, scale, bias), or use a function without one"
            if node.saturated
            else f"to pass the gradient through, write `x + (y - x).detach()` for y, the result of {name} for x"
        ),
        owner=leaves[0].name,
        source=node.source,
    )


# FXG207

_FXG207 = Page(
    code="FXG207",
    title="A leaf that the optimizer does not know",
    what="""
    backward gives a weight its gradient, the optimizer runs, and the weight never changes. state_dict() does not have
    it, and model.to(device) leaves it where it was.
    """,
    why="""
    A Module registers what is assigned to one of its attributes, if that is a Module or an nn.Parameter. It does not
    look into lists, tuples and dicts, and a tensor with requires_grad=True is not an nn.Parameter. What is made inside
    forward is made anew by every call, so an optimizer cannot know it.
    """,
    source="torch/nn/modules/module.py, Module.__setattr__ and Module.named_parameters",
    example="""
    >>> import torch
    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = [torch.nn.Linear(4, 4)]
    ...         self.last = torch.nn.Linear(4, 1)
    ...     def forward(self, x):
    ...         return self.last(self.hidden[0](x))
    >>> model = Net()
    >>> model(torch.ones(3, 4)).sum().backward()
    >>> model.hidden[0].weight.grad is None
    False
    >>> [name for name, parameter in model.named_parameters()]
    ['last.weight', 'last.bias']
    """,
    fix="""
    Hold modules in an nn.ModuleList or nn.ModuleDict, and parameters in an nn.ParameterList or nn.ParameterDict; make a
    tensor that is trained an nn.Parameter. Make all of them in __init__, not in forward.
    """,
)

_MODULE_PY = "(torch/nn/modules/module.py, Module.__setattr__)"


def _explain_unknown_leaves(graph: BackwardGraph) -> Iterator[Explanation]:
    """Leaves that get gradients inside the model and that `model.parameters()` does not have; one for each holder."""
    groups: dict[tuple[object, ...], list[Variable]] = {}
    for leaf in graph.variables:
        if leaf.held_by is not None and leaf.node is not None and leaf.is_leaf and _is_of_model(graph, leaf):
            groups.setdefault((leaf.held_by, leaf.made_at or _find_holder(leaf)), []).append(leaf)
    for found in groups.values():
        group = sorted(found, key=lambda leaf: leaf.name)
        yield _explain_made_leaves(group) if group[0].held_by == "forward" else _explain_held_leaves(graph, group)


def _is_of_model(graph: BackwardGraph, leaf: Variable) -> bool:
    """Whether the model holds the leaf, or its own call uses it: a recorded program may call other models."""
    if leaf.held_by == "attribute":
        return True
    users = graph.users_of_slots.get((leaf.node or 0, 0), ())
    return any(call.path == "" for user in users for call in graph.enclosing_calls(graph.nodes[user].call))


def _find_holder(leaf: Variable) -> str:
    """The attribute that a leaf, or its module, is in or behind."""
    name = leaf.name if leaf.held_by == "attribute" else leaf.name.rpartition(".")[0]
    return name.partition("[")[0]


def _explain_held_leaves(graph: BackwardGraph, leaves: Sequence[Variable]) -> Explanation:
    first, holder = leaves[0], _find_holder(leaves[0])
    call = _find_call(graph, first)
    them = pluralize(len(leaves), "it", plural="them")
    return Explanation(
        code="FXG207",
        severity="warning",
        headline=f"{_join_names(leaves)} {_get(leaves)}, but model.parameters() does not have {them}",
        because=(
            f"{_describe_holder(first, holder)} An optimizer made from model.parameters() never updates {them}, "
            f"model.to() does not move {them}, and state_dict() does not save {them}. {_MODULE_PY}"
        ),
        fix=_advise_on_holder(first, holder),
        owner=first.name,
        source=None if call is None else call.source,
    )


def _find_call(graph: BackwardGraph, leaf: Variable) -> ModuleCall | None:
    return next(iter(graph.calls_by_path.get(leaf.name.rpartition(".")[0], ())), None)


def _join_names(leaves: Sequence[Variable]) -> str:
    return join_words(quote_code(leaf.name) for leaf in leaves)


def _get(leaves: Sequence[Variable]) -> str:
    return pluralize(len(leaves), "gets a gradient", plural="get gradients")


def _describe_holder(leaf: Variable, holder: str) -> str:
    what = "modules" if leaf.held_by == "module" else "parameters"
    if _is_in_container(leaf):
        container = "dict or dataclass" if _is_in_dict(leaf) else "list or tuple"
        return f"{quote_code(holder)} is a {container}, whose {what} are not registered."
    if leaf.held_by == "attribute":
        return f"{quote_code(holder)} is a tensor that requires grad, but no registered nn.Parameter."
    return f"Forward calls {name_module(holder)}, which no module of the model registers."


def _advise_on_holder(leaf: Variable, holder: str) -> str:
    kind = "Module" if leaf.held_by == "module" else "Parameter"
    if _is_in_container(leaf):
        return f"make {quote_code(holder)} an nn.{kind}{'Dict' if _is_in_dict(leaf) else 'List'}"
    if leaf.held_by == "attribute":
        return f"make {quote_code(holder)} an nn.Parameter"
    return "assign it to an attribute of a module of the model"


def _is_in_container(leaf: Variable) -> bool:
    return "[" in leaf.name


def _is_in_dict(leaf: Variable) -> bool:
    return not leaf.name.partition("[")[2][:1].isdigit()


def _name_replaced(leaves: Sequence[Variable]) -> str:
    """Which parameters of the model they have taken the place of."""
    replaced = [quote_code(leaf.replaces) for leaf in leaves if leaf.replaces is not None]
    if not replaced:
        return ""
    return f" Forward puts {pluralize(len(replaced), 'it', plural='them')} in the place of {join_words(replaced)}."


def _explain_made_leaves(leaves: Sequence[Variable]) -> Explanation:
    return Explanation(
        code="FXG207",
        severity="warning",
        headline=f"{_join_names(leaves)} {pluralize(len(leaves), 'is', plural='are')} made in forward: no optimizer knows "
        f"{pluralize(len(leaves), 'it', plural='them')}",
        because=(
            f"{begin_at(leaves[0].made_at)}, forward makes the values of {pluralize(len(leaves), 'it', plural='them')}. "
            f"Every call makes {pluralize(len(leaves), 'a new nn.Parameter', plural='new nn.Parameters')}, so what an "
            f"optimizer was given before is not what gets the gradient.{_name_replaced(leaves)} {_MODULE_PY}"
        ),
        fix="make what is trained once, in __init__, and let forward use it; what is computed from it needs no nn.Parameter",
        owner=leaves[0].name,
        source=leaves[0].made_at,
    )


RULES = (
    Rule(_FXG205, graph_rules=(_explain_zeros,)),
    Rule(_FXG207, graph_rules=(_explain_unknown_leaves,)),
)

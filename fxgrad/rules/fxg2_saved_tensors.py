"""Nodes that raise because a tensor that they saved was modified or freed: FXG203."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fxgrad.graph import BackwardGraph, Explanation, FxNode, Node, NodeKind, Source
from fxgrad.graph.names import name_node_function
from fxgrad.graph.records import CHECKPOINT_ARGUMENTS
from fxgrad.graph.text import escape, format_source, join_words, quote_code
from fxgrad.predict import find_raising_nodes
from fxgrad.rules.data_flow import RUNS_BACKWARD, DataFlow, begin_at, end_at, name_operation
from fxgrad.rules.rule import Page, Rule

# FXG203

_FXG203 = Page(
    code="FXG203",
    title="Modified by an inplace operation; backward a second time",
    what="""
    backward raises "one of the variables needed for gradient computation has been modified by an inplace
    operation", or "Trying to backward through the graph a second time".
    """,
    why="""
    Nodes save tensors from forward: mul its factors, exp its result. Each tensor counts its in-place changes in a
    version counter. A node raises if the counter is not the one it saved, as its gradient would be wrong. Views and
    detached tensors share the counter; .data does not, and then the gradient is wrong without an error. A non-reentrant
    checkpoint saves its arguments, to run forward again from them: if one was modified in place, backward raises as well.

    backward frees the saved tensors unless retain_graph=True. A tensor that is kept from one step to the next with its
    graph, like the hidden state of a recurrent module, leads the second backward into the first step's graph.
    """,
    source="torch/csrc/autograd/saved_variable.cpp, SavedVariable::unpack",
    example="""
    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = x.exp()
    >>> handle = y.mul_(2)
    >>> y.sum().backward()
    Traceback (most recent call last):
        ...
    RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation: ...
    >>> z = x.exp().sum()
    >>> z.backward()
    >>> z.backward()
    Traceback (most recent call last):
        ...
    RuntimeError: Trying to backward through the graph a second time ...
    """,
    fix="""
    fxgrad names the node, the line that made it and the line that changed what it saved: use an out-of-place operation
    there, or a clone. Between steps, keep hidden.detach().
    """,
)

_UNPACK_CPP = "(torch/csrc/autograd/saved_variable.cpp)"
_OVERWRITTEN = "has been modified by an inplace operation"
_AGAIN = "Trying to backward through the graph a second time"


def _explain_lost_saved(graph: BackwardGraph) -> Iterator[Explanation]:
    """Backward reaches a node whose saved tensors were modified in place, or freed. It ends at the first that raises."""
    for node in reversed(find_raising_nodes(graph)):
        if node is not None and node.has_lost_saved:
            yield (_explain_freed if node.freed else _explain_overwritten)(graph, node)


def _raise_at(node: Node) -> str:
    return f"backward {'raises' if node.reads_saved else 'may raise'} at {escape(node.label)}"


def _choose_severity(node: Node) -> Literal["warning", "error"]:
    return "error" if node.reads_saved else "warning"


def _explain_when(node: Node, message: str) -> str:
    when = "" if node.reads_saved else f" if the backward of {name_node_function(node)} reads ctx.saved_tensors"
    return f"{message}{when}. {_UNPACK_CPP}"


# Modified in place


def _explain_overwritten(graph: BackwardGraph, node: Node) -> Explanation:
    if CHECKPOINT_ARGUMENTS in node.overwritten:
        return _explain_overwritten_argument(node)
    flow = DataFlow(graph)
    change = _find_change_after(graph, flow, node)
    held = _find_changed_variable(graph, flow, node, change)
    changed_by = name_operation(change) if change else "an in-place operation"
    made_at = f", at {format_source(node.source)}," if node.source else ""
    saved = join_words(_name_saved(graph, node, name, held) for name in node.overwritten)
    compares = (
        "Backward compares version counters, and raises `one of the variables needed for gradient computation has "
    )
    return Explanation(
        code="FXG203",
        severity=_choose_severity(node),
        headline=f"{_raise_at(node)}: {changed_by} changed {_summarize_saved(graph, node, held)}",
        because=(
            f"{name_node_function(node)}{made_at} saved {saved} for backward. {_explain_change(graph, change)} "
            + _explain_when(node, f"{compares}been modified by an inplace operation`")
        ),
        fix=_advise_on_change(graph, change),
        owner=node.label,
        source=change.source if change else node.source,
    )


def _explain_overwritten_argument(node: Node) -> Explanation:
    return Explanation(
        code="FXG203",
        severity=_choose_severity(node),
        headline=f"{_raise_at(node)}: an in-place operation changed an argument of the checkpoint around it",
        because=(
            "A non-reentrant checkpoint saves its arguments, and runs forward again from them when backward needs what "
            "was not kept. One of them was modified in place since. "
            + _explain_when(
                node,
                "Unpacking it compares version counters, and raises `one of the variables needed for gradient "
                "computation has been modified by an inplace operation`",
            )
        ),
        fix="pass the checkpoint a clone, or replace the in-place operation on its argument with an out-of-place one",
        owner=node.label,
        source=node.source,
    )


def _find_change_after(graph: BackwardGraph, flow: DataFlow, node: Node) -> FxNode | None:
    """The first operation after the node's own that modified its arguments or results in place."""
    if node.fx_node is None:
        return None
    own = graph.fx_nodes_by_name[node.fx_node]
    changers = {flow.rank[fx_node.name] for name in (own.name, *own.inputs) for fx_node in flow.list_changers(name)}
    later = [rank for rank in changers if rank > flow.rank[own.name]]
    return graph.forward[min(later)] if later else None


def _find_changed_variable(graph: BackwardGraph, flow: DataFlow, node: Node, change: FxNode | None) -> str | None:
    """The only variable among the arguments of a node's own operation that a later one changes; None: none, or several."""
    if node.fx_node is None or change is None:
        return None
    inputs = [name for name in graph.fx_nodes_by_name[node.fx_node].inputs if change in flow.list_changers(name)]
    targets = [graph.fx_nodes_by_name[name].target for name in inputs]
    return targets[0] if len(targets) == 1 and targets[0] in graph.variables_by_name else None


def _name_saved(graph: BackwardGraph, node: Node, argument: str, held: str | None) -> str:
    """``its result``, ```mat2`, which is critic.0.weight.t(),`` or the argument's name alone."""
    if argument.startswith("result"):
        return "its result"
    if node.schema is None:
        return "a tensor"
    value = _name_operand(graph, node, argument, held)
    return quote_code(argument) + (f", which is {value}," if value else "")


def _name_operand(graph: BackwardGraph, node: Node, argument: str, held: str | None) -> str | None:
    """What an argument of a node's function was: an expression, or the variable that was changed; None: not known."""
    edge = next((edge for edge in node.edges if edge.argument == argument), None)
    value = None if edge is None else graph.expression(edge, depth=1)
    return value or (None if held is None or len(node.overwritten) > 1 else quote_code(held))


def _summarize_saved(graph: BackwardGraph, node: Node, held: str | None) -> str:
    """What was changed, in a few words: ``critic.0.weight.t(), which it saved``, ``its result``."""
    if len(node.overwritten) > 1 or node.schema is None:
        return "what it saved"
    (argument,) = node.overwritten
    if argument.startswith("result"):
        return "its result, which it saved"
    return f"{_name_operand(graph, node, argument, held) or quote_code(argument)}, which it saved"


def _explain_change(graph: BackwardGraph, change: FxNode | None) -> str:
    if change is not None:
        return f"{begin_at(change.source)}, {name_operation(change)} modifies that in place."
    if graph.info.calls_reason is not None:
        return "That was modified in place since; which line did it is not known, as forward was not recorded."
    return "That is modified in place later."


def _advise_on_change(graph: BackwardGraph, change: FxNode | None) -> str:
    if graph.info.calls_reason is not None:
        return "record the program (fxgrad.record), which finds the line that modifies it"
    if change is None:
        return "replace the in-place operation with an out-of-place one, or apply it to a clone"
    changed = {
        graph.fx_nodes_by_name[value.fx_node] for value in change.changes if value.fx_node in graph.fx_nodes_by_name
    }
    variables = [graph.variables_by_name.get(fx_node.target) for fx_node in changed if fx_node.op == "get_attr"]
    if any(variable is not None and variable.kind == "parameter" for variable in variables):
        return (
            "call every backward that uses the old values before that line, or run forward again after it; or use a clone() of "
            "the parameter where the old values are meant"
        )
    return f"replace {name_operation(change)} with an out-of-place operation, or apply it to a clone"


# Freed

_FREEING = (*RUNS_BACKWARD, "torch.autograd.grad")


def _explain_hidden(node: Node) -> Explanation:
    return Explanation(
        code="FXG203",
        severity="warning",
        headline=f"{_raise_at(node)}: an earlier backward may have freed the function in it",
        because=(
            f"An earlier backward freed other nodes of this graph. If it executed {escape(node.label)} as well, which does not "
            f"show what it holds, backward raises `{_AGAIN}`. (torch/csrc/autograd/functions/tensor.cpp, CopySlices)"
        ),
        fix="call the earlier backward with retain_graph=True, or run forward again",
        owner=node.label,
        source=node.source,
    )


def _explain_freed(graph: BackwardGraph, node: Node) -> Explanation:
    if node.kind is NodeKind.COPY_SLICES:
        return _explain_hidden(node)
    because, fix, source, cause = _describe_freeing(graph, node)
    return Explanation(
        code="FXG203",
        severity=_choose_severity(node),
        headline=f"{_raise_at(node)}: {cause}",
        because=f"{because} {_explain_when(node, f'Backward raises `{_AGAIN}`')}",
        fix=fix,
        owner=node.label,
        source=source,
    )


def _describe_freeing(graph: BackwardGraph, node: Node) -> tuple[str, str, Source | None, str]:
    """Which backward freed what a node saved, what to do about it, at which line, and why in a few words."""
    freed = "an earlier backward freed what it saved"
    if graph.info.calls_reason is not None:
        because = f"An earlier backward has executed {escape(node.label)}, and freed what it saved."
        return because, "call the earlier backward with retain_graph=True, or run forward again", None, freed
    freeing = _find_backward_after(graph, node)
    if freeing is not None:
        does = (
            f"{begin_at(freeing.source)}, {name_operation(freeing)} runs a backward, which frees what its nodes saved."
        )
        cause = f"{name_operation(freeing)}{end_at(freeing.source)} freed what it saved"
        return does, _advise_on_backward(graph, freeing), freeing.source, cause
    entered = _find_way_into_earlier_graph(graph, node)
    name, line = (None, None) if entered is None else entered
    what = "a tensor" if name is None else quote_code(name)
    because = f"{begin_at(line)}, forward goes on from {what} that was computed before, with the graph behind it."
    kept = "what is kept of the earlier run" if name is None else quote_code(name)
    fix = f"detach {kept} before forward uses it again, as in hidden = hidden.detach(), or compute it anew in each forward"
    because = f"{because} An earlier backward freed what that graph saved."
    return because, fix, line, freed if name is None else f"{freed}, and {quote_code(name)} leads there"


def _advise_on_backward(graph: BackwardGraph, freeing: FxNode) -> str:
    """What to do about a backward in forward that frees what a later one needs."""
    flow = DataFlow(graph)
    name = name_operation(freeing)
    if freeing.name in flow.returned:
        return f"pass create_graph=True to {name}, which keeps the graph, and the history of what it returns"
    rank = flow.rank[freeing.name]
    names = {
        name
        for node in graph.nodes
        if node.freed and node.fx_node
        for name in graph.fx_nodes_by_name[node.fx_node].inputs
    }
    changes = (change for name in sorted(names) for change in flow.list_changers(name) if flow.rank[change.name] > rank)
    change = min(changes, key=lambda each: flow.rank[each.name], default=None)
    if change is not None:
        return (
            f"call it with retain_graph=True, and the other backward before {name_operation(change)}"
            f"{end_at(change.source)} changes what was saved; or add the losses and call backward once; or run forward again"
        )
    return (
        "call it with retain_graph=True; or make its loss of detached tensors, as in discriminator(fake.detach()), if it is not "
        "to train what made them"
    )


def _find_backward_after(graph: BackwardGraph, node: Node) -> FxNode | None:
    """The last recorded call that ran a backward of what the node's own operation gave; None where none was recorded."""
    if node.fx_node is None:
        return None
    computed = DataFlow(graph).find_dependents([node.fx_node])
    ran = (fx_node for fx_node in reversed(graph.forward) if fx_node.target in _FREEING)
    return next((fx_node for fx_node in ran if not computed.isdisjoint(fx_node.inputs)), None)


def _find_way_into_earlier_graph(graph: BackwardGraph, node: Node) -> tuple[str | None, Source | None] | None:
    """Where recorded operations use a tensor of a graph from before, that leads to a node: its name, and their line."""
    for user in graph.nodes:
        for edge in user.edges if user.fx_node is not None else ():
            into = edge.next_node
            if into is not None and _is_earlier(graph.nodes[into]) and graph.path(into, node.id) is not None:
                return _name_kept(graph, user, (into, edge.input_nr)), user.source
    return None


def _name_kept(graph: BackwardGraph, user: Node, slot: tuple[int, int]) -> str | None:
    """What holds the tensor of a slot from before, as `user` uses it; what that has changed in place since has another slot."""
    name = graph.names_of_slots.get(slot)
    if name is not None:
        return graph.variables_by_name[name].left or name
    inputs = () if user.fx_node is None else graph.fx_nodes_by_name[user.fx_node].inputs
    targets = {graph.fx_nodes_by_name[each].target for each in inputs}
    held = [each.name for each in graph.variables if each.kind in ("buffer", "input") and each.name in targets]
    return held[0] if len(held) == 1 else None


def _is_earlier(node: Node) -> bool:
    return node.fx_node is None and node.call is None and not node.kind.is_leaf


# Errors


def _explain_overwritten_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about a saved tensor that was changed; None for any other message."""
    if _OVERWRITTEN not in message:
        return None
    return Explanation(
        code="FXG203",
        severity="error",
        headline="backward reached a node whose saved tensor was modified in place",
        because=f"Backward checks the version counters of saved tensors. {_UNPACK_CPP}",
        fix=(
            "call fxgrad.trace(...).explain() or run fxgrad check: they name the node, its line, and the line of the "
            "change"
        ),
    )


def _explain_second_backward_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about a second backward; None for any other message."""
    if _AGAIN not in message:
        return None
    return Explanation(
        code="FXG203",
        severity="error",
        headline="backward reached a part of the graph that an earlier backward freed",
        because=(
            "A backward frees the saved tensors of its nodes. A tensor that is kept from one step to the next with "
            f"its graph, or computed once and used in each step, leads the next backward there again. {_UNPACK_CPP}"
        ),
        fix="keep it detached (hidden = hidden.detach()), compute it in each step, or call backward(retain_graph=True)",
    )


RULES = (
    Rule(
        _FXG203,
        graph_rules=(_explain_lost_saved,),
        error_rules=(_explain_overwritten_error, _explain_second_backward_error),
    ),
)

"""Which parameters get no gradient, and why: FXG201, FXG202 and FXG204."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, Explanation, FxNode, ModuleCall, Node, NodeKind, Source, Variable
from fxgrad.graph.lookup import find_inside_scripts
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import count_noun, escape, format_meta, join_words, name_module, pluralize, quote_code
from fxgrad.predict import find_raising_nodes, find_refused_leaves
from fxgrad.rules.cuts import (
    ADVICE_ON_PARAMETERS,
    advise_on_cut,
    advise_on_taken,
    advise_on_written,
    explain_cut,
    explain_taken,
    explain_written,
    summarize_cut,
    summarize_written,
)
from fxgrad.rules.data_flow import DataFlow, begin_at, cannot_require_grad, end_at, may_carry_gradient, name_operation
from fxgrad.rules.gradless import Gradless, advise_on_gradless, explain_gradless, find_gradless
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.silenced import find_silenced

# Where gradients get lost

_TRANSFORMS = "torch._functorch."


class WhyLost(enum.Enum):
    """How a gradient gets lost on its way to a parameter that requires grad.

    ``UNUSED``      no recorded operation uses the parameter
    ``CUT``         what was computed from it stops requiring grad on the way to the output
    ``DISABLED``    the same, as all that uses it is in a module that forward calls with gradients disabled
    ``NOT_PASSED``  an operation of the backward graph uses it, or what was computed from it, and gives it no gradient
    ``REFUSED``     a node that receives a gradient returns None for it, or on the way to it
    ``NOT_ASKED``   an output depends on it, from which backward does not start, or which the loss does not use
    ``DROPPED``     the output does not depend on what was computed from it
    ``WRITTEN``     forward puts what was computed from it into another tensor by its ``.data``
    ``RESTARTED``   forward makes a leaf, such as an nn.Parameter, of what was computed from it, and that has no history
    ``GRADLESS``    only reentrant checkpoints, or Functions like them, none of whose arguments requires grad, use it or what
                    was computed from it
    ``EARLIER``     a backward that forward runs gives it its gradient
    ``RECOMPUTED``  a node runs operations again, and a nested backward: only backward decides
    ``UNKNOWN``     forward was not recorded, or something that cannot be recorded uses the parameter
    """

    UNUSED = "unused"
    CUT = "cut"
    DISABLED = "disabled"
    NOT_PASSED = "not passed"
    REFUSED = "refused"
    NOT_ASKED = "not asked"
    DROPPED = "dropped"
    WRITTEN = "written"
    RESTARTED = "restarted"
    GRADLESS = "gradless"
    EARLIER = "earlier"
    RECOMPUTED = "recomputed"
    UNKNOWN = "unknown"


class LostGradient(NamedTuple):
    """A parameter that no gradient reaches, and where its gradient is lost: the operations, in order.

    For ``DROPPED``, ``at`` are the operations whose value Python took, else the last ones that used it. For ``REFUSED``,
    ``refusers`` are the nodes that return None, each with why. For ``RESTARTED``, ``made`` are the leaves that forward made
    of the results of ``at``, ``plain`` where these are no nn.Parameters; for ``WRITTEN``, the fx nodes of the tensors that
    ``at`` write to. For ``DISABLED``, ``call`` is the first call of the module.
    """

    parameter: Variable
    why: WhyLost
    at: tuple[FxNode, ...] = ()
    refusers: tuple[tuple[Node, str], ...] = ()
    leaf: int | None = None
    made: tuple[str, ...] = ()
    call: ModuleCall | None = None
    plain: bool = False


def find_lost_gradients(graph: BackwardGraph) -> tuple[LostGradient, ...]:
    """Every parameter that requires grad and gets none from the roots, in the order of the variables."""
    return graph.remember(_find_lost_gradients)


def _find_lost_gradients(graph: BackwardGraph) -> tuple[LostGradient, ...]:
    refused = find_refused_leaves(graph)
    gathered = {parameter.unsharded for parameter in graph.parameters}  # count as the sharded ones
    wanted = [each for each in graph.parameters if each.requires_grad and each.name not in gathered]
    missing = [
        (parameter, leaf)
        for parameter, leaf in zip(wanted, map(graph.find_gradient_node, wanted), strict=True)
        if leaf is None or all(node in refused for node in (leaf, *parameter.earlier))
    ]
    if not missing:
        return ()
    flow = DataFlow(graph)
    getters = {fx_node.target: fx_node.name for fx_node in graph.forward if fx_node.op == "get_attr"}
    # the operations of such modules run without Python, so their arguments cannot be recorded
    hidden = {name for module in graph.modules if module.made_by == "torch.jit" for name in module.parameters}
    # a transform of torch.func is recorded as one call, whose function may use any parameter
    is_transformed = any(fx_node.target.startswith(_TRANSFORMS) for fx_node in graph.forward)
    found = []
    for parameter, leaf in missing:
        names = [getters[name] for name in (parameter.name, *parameter.aliases) if name in getters]
        inside = flow.list_gradless_uses(names)
        if leaf is not None:
            found.append(LostGradient(parameter, WhyLost.REFUSED, refusers=refused[leaf], leaf=leaf))
        elif not graph.forward:
            found.append(LostGradient(parameter, WhyLost.RECOMPUTED if graph.nesting else WhyLost.UNKNOWN))
        elif not graph.nests_in_checkpoints:
            # a custom Function is recorded as one call with its arguments; what else its code uses is unknown
            found.append(LostGradient(parameter, WhyLost.RECOMPUTED))
        elif inside:
            found.append(LostGradient(parameter, WhyLost.GRADLESS, inside))
        elif not names and parameter.name in flow.unseen:
            found.append(LostGradient(parameter, WhyLost.GRADLESS, (flow.unseen[parameter.name],)))
        elif not names:
            is_hidden = is_transformed or parameter.name in hidden
            found.append(LostGradient(parameter, WhyLost.UNKNOWN if is_hidden else WhyLost.UNUSED))
        elif graph.nesting:
            found.append(LostGradient(parameter, WhyLost.RECOMPUTED))
        else:
            found.append(_follow_parameter(graph, flow, parameter, names))
    return tuple(found)


def _follow_parameter(graph: BackwardGraph, flow: DataFlow, parameter: Variable, names: Sequence[str]) -> LostGradient:
    if flow.reach_backward(names):
        return LostGradient(parameter, WhyLost.EARLIER)
    cuts, others, returned = flow.find_uses(names)
    # what has no derivative is seldom where a gradient was meant to pass: first what is easier to change
    effective = sorted([cut for cut in cuts if cut.name in flow.returned], key=cannot_require_grad)
    if effective:
        if all(find_gradless(cut) is not None for cut in effective):
            return LostGradient(parameter, WhyLost.GRADLESS, tuple(effective))
        calls = [_find_disabled_call(graph, cut) for cut in effective]
        if calls[0] is not None and len({call and (call.path, call.source) for call in calls}) == 1:
            return LostGradient(parameter, WhyLost.DISABLED, tuple(effective), call=calls[0])
        return LostGradient(parameter, WhyLost.CUT, tuple(effective))
    if others:
        return LostGradient(parameter, WhyLost.NOT_PASSED, others)
    if returned:
        return LostGradient(parameter, WhyLost.NOT_ASKED)
    new_leaves = [leaf for leaf in graph.variables if leaf.made_from is not None and leaf.node is not None]
    dependents = flow.find_dependents(names) if new_leaves else frozenset()
    made = {leaf.name: leaf.made_from for leaf in new_leaves if leaf.made_from in dependents}
    if made:
        at = [graph.fx_nodes_by_name[fx_node] for fx_node in dict.fromkeys(made.values()) if fx_node is not None]
        plain = all(graph.variables_by_name[name].held_by != "forward" for name in made)
        return LostGradient(parameter, WhyLost.RESTARTED, tuple(at), made=tuple(made), plain=plain)
    last = flow.list_last_uses(names)
    owners = {fx_node.name: flow.find_data_owner(fx_node) for fx_node in last}
    written = tuple([fx_node for fx_node in last if owners[fx_node.name] is not None])
    if written:
        into = tuple([owner for owner in owners.values() if owner is not None])
        return LostGradient(parameter, WhyLost.WRITTEN, written, made=into)
    return LostGradient(parameter, WhyLost.DROPPED, last)


def _find_disabled_call(graph: BackwardGraph, fx_node: FxNode) -> ModuleCall | None:
    """The outermost module call around an operation that ran with gradients disabled."""
    calls = (graph.calls_by_id.get(call) for call in fx_node.modules)
    return next((call for call in calls if call is not None and not call.grad_enabled), None)


def describe_lost_gradient(graph: BackwardGraph, lost: LostGradient) -> str:
    """How a gradient is lost, in a few words; if its module is never called, also that."""
    owner = lost.parameter.name.rpartition(".")[0]
    if lost.why is not WhyLost.RECOMPUTED:
        silent = graph.info.calls_reason is None and _list_never_called(graph, [lost.parameter])
        return f"{_summarize(lost)}: {name_module(owner)} is never called" if silent else _summarize(lost)
    is_checkpoint = graph.nests_in_checkpoints
    runs = "a reentrant checkpoint runs" if is_checkpoint else f"{join_labels(graph.nesting)} may run"
    if owner in graph.recomputed_modules:
        return f"only backward decides: {runs} {name_module(owner)} again then"
    again = "again in backward" if is_checkpoint else "in a nested backward"
    return f"no root depends on it, outside of what {runs} {again}"


_IN_FEW_WORDS = {
    WhyLost.NOT_ASKED: "no gradient reaches the output that depends on it",
    WhyLost.DROPPED: "autograd sees no path to the output",
    WhyLost.UNUSED: "autograd sees no use of it",
    WhyLost.EARLIER: "no root depends on it; a backward that forward runs gives it a gradient",
}


def _summarize(lost: LostGradient, *others: LostGradient) -> str:
    """How a gradient is lost, and `others` at the same place, in a few words."""
    match lost.why:
        case WhyLost.CUT:
            return summarize_cut(lost.at[0])
        case WhyLost.DISABLED:
            return f"{_name_disabled([lost, *others])} called with gradients disabled{end_at(_find_source(lost))}"
        case WhyLost.NOT_PASSED:
            return f"{name_operation(lost.at[0])}{end_at(_find_source(lost))} passes no gradient back"
        case WhyLost.REFUSED:
            node, _ = lost.refusers[0]
            if node.kind is NodeKind.BACKWARD_HOOK:
                return f"no gradient comes back for it to what a module with a full hook got or returned{end_at(node.source)}"
            return f"{_name_refuser(node)}{end_at(node.source)} returns None for it"
        case WhyLost.GRADLESS:
            return _summarize_gradless(lost)
        case WhyLost.DROPPED if lost.at and lost.at[0].taken:
            return f"the value leaves torch{end_at(_find_source(lost))}"
        case WhyLost.WRITTEN:
            return summarize_written(lost.at[0])
        case WhyLost.DROPPED if lost.at and not may_carry_gradient(lost.at[0]):
            return summarize_cut(lost.at[0])
        case WhyLost.RESTARTED:
            made = "leaf" if lost.plain else "nn.Parameter"
            return f"the {made} made of {name_operation(lost.at[0])}{end_at(_find_source(lost))} has no history"
        case _:
            return _IN_FEW_WORDS.get(lost.why, "no root depends on it")


def _name_disabled(group: Sequence[LostGradient]) -> str:
    """The modules that are called with gradients disabled, and the verb: "`encoder` is"."""
    paths = dict.fromkeys(lost.call.path for lost in group if lost.call is not None)
    return f"{join_words(map(name_module, paths))} {pluralize(len(paths), 'is', plural='are')}"


def _summarize_gradless(lost: LostGradient) -> str:
    gradless = find_gradless(lost.at[0])
    assert gradless is not None
    return f"the {gradless.name}{end_at(gradless.source)} gets no argument that requires grad"


def _name_refuser(node: Node) -> str:
    if node.kind is NodeKind.CUSTOM_FUNCTION:
        return f"the backward of {quote_code(node.name.removesuffix('Backward'))}"
    return escape(node.label)


def _find_source(lost: LostGradient) -> Source | None:
    if lost.refusers:
        return lost.refusers[0][0].source
    if lost.call is not None:
        return lost.call.source
    first = lost.at[0] if lost.at else None
    if first is None:
        return None
    return first.taken[-1].source if lost.why is WhyLost.DROPPED and first.taken else first.source


def _list_never_called(graph: BackwardGraph, parameters: Sequence[Variable]) -> tuple[str, ...]:
    """The modules that hold these parameters and have no call; not those inside a script, whose calls are not seen."""
    owners = dict.fromkeys(parameter.name.rpartition(".")[0] for parameter in parameters)
    unseen = find_inside_scripts(graph)
    known = (owner for owner in owners if owner in graph.modules_by_path and owner not in unseen)
    return tuple(owner for owner in known if not graph.calls_per_module[graph.modules_by_path[owner].path])


# FXG201

_FXG201 = Page(
    code="FXG201",
    title="Why is this parameter's .grad None?",
    what="""
    backward runs without an error, but a parameter's .grad is still None, and the optimizer silently skips it.
    """,
    why="""
    A gradient reaches a parameter through the nodes that forward made from it. An operation makes a node only if
    gradients are enabled, an argument requires grad, and its result has a floating point or complex dtype. So the path
    ends at detach() and .data, under no_grad and inference_mode, at integers and booleans (argmax, comparisons, casts),
    and where item() takes out a number or numpy() an array. It also ends if the result is not used, if an operation has
    no derivative for that argument, or if requires_grad is False.

    A tensor that was computed from others is not a leaf: backward passes its gradient on and does not store it.
    """,
    source="torch/csrc/autograd/functions/utils.h, compute_requires_grad",
    example="""
    >>> import torch
    >>> first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    >>> second(first(torch.ones(4, 3)).detach()).sum().backward()
    >>> first.weight.grad is None, second.weight.grad is None
    (True, False)
    """,
    fix="""
    fxgrad names the operation and its line. Remove it, or freeze the parameters with requires_grad_(False) to show that
    they are not trained. For a tensor that is not a leaf, call retain_grad() before backward.
    """,
)

_MOST_PLACES = 3
_MOST_HOOKS = 3
_REQUIRES_GRAD_CPP = "(torch/csrc/autograd/functions/utils.h, compute_requires_grad)"
_ACCUMULATE_GRAD_CPP = "(torch/csrc/autograd/functions/accumulate_grad.cpp)"
_UNANSWERED = (WhyLost.UNUSED, WhyLost.GRADLESS, WhyLost.EARLIER, WhyLost.RECOMPUTED, WhyLost.UNKNOWN)


def _explain_lost_gradients(graph: BackwardGraph) -> Iterator[Explanation]:
    """Forward uses a parameter, and no gradient reaches it. Those that are lost on the same lines come together."""
    groups: dict[tuple[Hashable, ...], list[LostGradient]] = {}
    for lost in find_lost_gradients(graph):
        if lost.why not in _UNANSWERED:
            groups.setdefault(_list_places(lost), []).append(lost)
    yield from (_explain_group(graph, group) for group in groups.values())


def _list_places(lost: LostGradient) -> tuple[Hashable, ...]:
    """Why and where it is lost: the same for those that one finding is about."""
    if lost.call is not None:
        return lost.why, lost.call.source or lost.call.path
    places = dict.fromkeys((fx_node.source, name_operation(fx_node), fx_node.grad_enabled) for fx_node in lost.at)
    return (lost.why, lost.refusers, *places)


def _explain_group(graph: BackwardGraph, group: Sequence[LostGradient]) -> Explanation:
    first = group[0]
    advice, freezing = _advise_on_loss(graph, first), _advise_freezing(group)
    return Explanation(
        code="FXG201",
        severity="warning",
        headline=f"no gradient reaches {_join_parameters(group)}{_name_silenced(graph, group)}: {_summarize(*group)}",
        because=" ".join(_list_loss_reasons(graph, group)),
        fix=f"{advice}, or {freezing}" if advice else freezing,
        owner=first.parameter.name,
        source=_find_source(first),
    )


def _join_parameters(group: Sequence[LostGradient]) -> str:
    return join_words(quote_code(lost.parameter.name) for lost in group)


def _name_silenced(graph: BackwardGraph, group: Sequence[LostGradient]) -> str:
    """The hooks that never fire because no gradient reaches these, to follow their names; "" if there are none."""
    names = {lost.parameter.name for lost in group}
    silenced = [each.subject for each in find_silenced(graph, list_reasons(graph)) if each.parameters <= names]
    owners = list(dict.fromkeys(name_module(each.path) if each.module else quote_code(each.path) for each in silenced))
    if not owners:
        return ""
    hooks, fires = ("hook", "fires") if len(silenced) == 1 else ("hooks", "fire")
    return f", and the {hooks} on {join_words(owners, most=_MOST_HOOKS)} never {fires}"


def list_reasons(graph: BackwardGraph) -> dict[str, Hashable]:
    """Why no gradient reaches each parameter of which FXG201, FXG204 or FXG206 tells."""
    replaced = _list_replaced(graph)
    return {
        lost.parameter.name: (lost.why, find_gradless(lost.at[0]))
        if lost.why is WhyLost.GRADLESS
        else _list_places(lost)
        for lost in find_lost_gradients(graph)
        if lost.why not in (WhyLost.RECOMPUTED, WhyLost.UNKNOWN)
        and not (lost.why is WhyLost.UNUSED and lost.parameter.name in replaced)
    }


def _list_replaced(graph: BackwardGraph) -> set[str | None]:
    """The parameters that FXG207 tells of: forward made others in their place."""
    return {leaf.replaces for leaf in graph.variables if leaf.held_by == "forward"}


def _choose_pronoun(group: Sequence[LostGradient]) -> str:
    return pluralize(len(group), "it", plural="them")


def _advise_freezing(group: Sequence[LostGradient]) -> str:
    them, they = ("it", "it") if len(group) == 1 else ("them", "they")
    return f"freeze {them} with requires_grad_(False) if {they} should not be trained"


def _list_loss_reasons(graph: BackwardGraph, group: Sequence[LostGradient]) -> Iterator[str]:
    lost, them = group[0], _choose_pronoun(group)
    match lost.why:
        case WhyLost.CUT:
            yield f"Forward uses {them}, but what it computes from {them} stops requiring grad on the way to the output."
            yield from map(explain_cut, lost.at[:_MOST_PLACES])
        case WhyLost.DISABLED:
            yield (
                f"{begin_at(_find_source(lost))}, {_name_disabled(group)} called with gradients disabled (no_grad, "
                f"inference_mode or set_grad_enabled(False)), so what is computed from {them} there requires no grad."
            )
        case WhyLost.NOT_PASSED:
            for fx_node in lost.at[:_MOST_PLACES]:
                assert may_carry_gradient(fx_node)
                at, name = begin_at(fx_node.source), name_operation(fx_node)
                yield f"{at}, {name} uses {them} and returns no gradient for {them}."
        case WhyLost.REFUSED:
            yield from (_explain_refuser(lost, node, why, them) for node, why in lost.refusers[:_MOST_PLACES])
        case WhyLost.NOT_ASKED:
            yield f"An output of forward depends on {them} but gets no gradient from the roots:"
            yield f"{graph.info.root_rule}."
        case WhyLost.RESTARTED:
            at, names = begin_at(lost.at[0].source), join_words(map(quote_code, lost.made))
            yield f"{at}, {name_operation(lost.at[0])} computes from {them} what forward makes {names} of."
            how = "(torch/csrc/autograd/python_variable.cpp)" if lost.plain else "(torch/nn/parameter.py)"
            makes = "torch.autograd.Variable, and the like, makes" if lost.plain else "nn.Parameter makes"
            yield f"{makes} a leaf of a tensor's memory: backward ends there. {how}"
        case WhyLost.WRITTEN:
            yield from map(explain_written, lost.at[:_MOST_PLACES])
        case _:
            yield from map(_explain_last_use, lost.at[:_MOST_PLACES])
            yield "No recorded operation leads from there to the output."
    more = 0 if lost.call is not None else max(len(lost.at), len(lost.refusers)) - _MOST_PLACES
    if more > 0:
        yield f"And at {count_noun(more, 'more place')}."
    where = _ACCUMULATE_GRAD_CPP if lost.refusers else _REQUIRES_GRAD_CPP
    yield f"Backward leaves .grad unchanged: None at first. {where}"


def _explain_refuser(lost: LostGradient, node: Node, why: str, them: str) -> str:
    computed = "" if any(edge.next_node == lost.leaf for edge in node.edges) else "what was computed from "
    because = "" if node.kind is NodeKind.CUSTOM_FUNCTION else f": {why}"
    return (
        f"{begin_at(node.source)}, forward made {escape(node.label)}. It receives a gradient and returns None for "
        f"{computed}{them}{because}."
    )


def _explain_last_use(fx_node: FxNode) -> str:
    if fx_node.taken:
        return explain_taken(fx_node)
    if not may_carry_gradient(fx_node):
        return explain_cut(fx_node)
    return f"{begin_at(fx_node.source)}, {name_operation(fx_node)} is the last recorded operation on it."


def _advise_on_loss(graph: BackwardGraph, lost: LostGradient) -> str:
    match lost.why:
        case WhyLost.CUT:
            return advise_on_cut(lost.at[0])
        case WhyLost.DISABLED:
            return "make that call with gradients enabled"
        case WhyLost.NOT_PASSED:
            return f"replace {name_operation(lost.at[0])} with an operation that is differentiable in this argument"
        case WhyLost.REFUSED if lost.refusers[0][0].kind is NodeKind.CUSTOM_FUNCTION:
            function = lost.refusers[0][0].name.removesuffix("Backward")
            return f"return its gradient from {quote_code(f'{function}.backward')}"
        case WhyLost.REFUSED:
            passes_on = lost.refusers[0][0].kind is NodeKind.BACKWARD_HOOK
            return "use that tensor in what you call backward on" if passes_on else ""
        case WhyLost.NOT_ASKED:
            return "use that output in what you call backward on"
        case WhyLost.RESTARTED if lost.plain:
            return "use the tensor itself, in place of torch.autograd.Variable(...) of it"
        case WhyLost.RESTARTED:
            return ADVICE_ON_PARAMETERS
        case WhyLost.WRITTEN:
            return advise_on_written(lost.at[0], to_parameter=_is_parameter(graph, lost.made[0]))
        case _ if lost.at and lost.at[0].taken:
            return advise_on_taken(lost.at[0])
        case _ if lost.at and not may_carry_gradient(lost.at[0]):
            return advise_on_cut(lost.at[0])
        case _:
            return "use the result in the output"


def _is_parameter(graph: BackwardGraph, fx_node: str) -> bool:
    variable = graph.variables_by_name.get(graph.fx_nodes_by_name[fx_node].target)
    return variable is not None and variable.kind == "parameter"


def _explain_computed_tensors(graph: BackwardGraph) -> Iterator[Explanation]:
    """A tensor of the model or its arguments was computed from others before forward."""
    raising, _ = find_raising_nodes(graph)
    for variable in graph.variables:
        is_asked = not (variable.is_leaf or variable.retains_grad or variable.left) and variable.requires_grad
        if is_asked and _is_older(graph, variable) and not _leads_to(graph, variable, raising):
            yield _explain_computed_tensor(graph, variable)


def _leads_to(graph: BackwardGraph, variable: Variable, freed: Node | None) -> bool:
    """Whether an earlier backward freed the graph of a variable: FXG203 says so."""
    return (
        freed is not None
        and freed.freed
        and variable.node is not None
        and graph.path(variable.node, freed.id) is not None
    )


def _is_older(graph: BackwardGraph, variable: Variable) -> bool:
    if variable.node is None or not graph.calls:
        return False
    made = graph.nodes[variable.node].sequence_nr
    return made is not None and made < graph.calls[0].sequence_window[0]


def _explain_computed_tensor(graph: BackwardGraph, variable: Variable) -> Explanation:
    name = quote_code(variable.name)
    chain = _follow_only_path(graph, variable)
    is_leaf_moved = all(
        node.kind.is_leaf or node.short_name.partition("Backward")[0] in _MOVING for node in chain
    ) and bool(chain)
    return Explanation(
        code="FXG201",
        severity="info" if variable.kind in ("input", "buffer") and not is_leaf_moved else "warning",
        headline=f"{name} is not a leaf: its .grad stays None{_name_receiver(graph, chain)}",
        because=(
            f"{name} was computed before forward from tensors that require grad"
            f"{f', by {join_labels(chain[:-1])}' if chain[:-1] else ''}. Backward stores gradients only in leaves, and "
            "optimizers refuse other tensors. (torch/_tensor.py, Tensor.is_leaf)"
        ),
        fix=(
            f"{'' if is_leaf_moved or variable.kind != 'other leaf' else 'compute it in forward, each time anew; or '}"
            f"make it a leaf: `{escape(variable.name)} = {escape(variable.name)}.detach().requires_grad_()`"
            f"{' after the conversion' if is_leaf_moved else ', or an nn.Parameter'}; or call "
            f"{name}.retain_grad() before backward"
        ),
        owner=variable.name,
    )


_MOVING = frozenset(
    {
        *(
            "ToCopy",
            "View",
            "Reshape",
            "UnsafeView",
            "Clone",
            "Alias",
            "T",
            "Transpose",
            "Permute",
            "Expand",
            "Squeeze",
        ),
        *("Unsqueeze", "Slice", "Select", "AsStrided", "Copy", "Copies"),
    }
)
"""Families of nodes whose function gives the same values another dtype, device or shape."""


def _follow_only_path(graph: BackwardGraph, variable: Variable) -> list[Node]:
    """The nodes from a tensor to the only leaf that it was computed from; [] if it was computed from several."""
    chain: list[Node] = []
    following = variable.node
    while following is not None:
        chain.append(graph.nodes[following])
        targets = {edge.next_node for edge in chain[-1].edges} - {None}
        if len(targets) > 1:
            return []
        following = next(iter(targets), None)
    return chain if chain[-1].kind.is_leaf else []


def _name_receiver(graph: BackwardGraph, chain: Sequence[Node]) -> str:
    leaf = graph.variables_by_name.get(chain[-1].variable or "") if chain else None
    if leaf is None:
        return ""
    return (
        f"; through {escape(chain[0].label)} the gradient goes on to {quote_code(leaf.name)} {format_meta(leaf.meta)}"
    )


def _explain_frozen_parameters(graph: BackwardGraph) -> Iterator[Explanation]:
    """Parameters that require no grad."""
    frozen = [each for each in graph.parameters if not each.requires_grad]
    if frozen:
        one = len(frozen) == 1
        yield Explanation(
            code="FXG201",
            severity="info",
            headline=f"{count_noun(len(frozen), 'parameter')} {'is' if one else 'are'} frozen",
            because=(
                f"requires_grad is False for {join_words(quote_code(each.name) for each in frozen)}: backward leaves "
                ".grad unchanged: None at first."
            ),
            fix=f"call requires_grad_(True) on {'it' if one else 'them'} to train {'it' if one else 'them'}",
            owner=frozen[0].name,
        )


# FXG202

_FXG202 = Page(
    code="FXG202",
    title="Element 0 of tensors does not require grad",
    what="""
    backward raises "element 0 of tensors does not require grad and does not have a grad_fn".
    """,
    why="""
    The loss does not require grad: autograd lost track of it for one of the reasons in FXG201. What counts is the last
    operation that got a tensor that requires grad and returned one that does not.
    """,
    source="torch/csrc/autograd/python_engine.cpp, THPEngine_run_backward",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> (linear(torch.ones(4, 3)) > 0).float().mean().backward()
    Traceback (most recent call last):
        ...
    RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn
    """,
    fix="""
    When fxgrad traces such a model, it names the place nearest to the loss. Train on a differentiable loss: for
    example, cross_entropy instead of the number of correct answers.
    """,
)


def explain_missing_grad(graph: BackwardGraph) -> Explanation:
    """Explain why no output of forward requires grad, by the cut nearest to the output."""
    flow = DataFlow(graph)
    cut = flow.find_last_cut(flow.ends)
    taken = next((each for each in reversed(graph.forward) if each.taken and any(each.requires_grad)), None)
    source: Source | None = None
    if cut is not None:
        because, fix, source = explain_cut(cut), advise_on_cut(cut), cut.source
    elif taken is not None:
        because, fix, source = explain_taken(taken), advise_on_taken(taken), taken.taken[-1].source
    else:
        because, fix = _explain_no_cut(graph, flow)
    gradless = next((found for fx_node in graph.forward if (found := find_gradless(fx_node)) is not None), None)
    if gradless is not None and (cut is None or cut.gradless is not None):
        because, fix, source = explain_gradless(gradless), advise_on_gradless(gradless), gradless.source
    headline = "nothing that backward could start from requires grad"
    return Explanation("FXG202", "error", headline, because, fix, source=source)


def _explain_no_cut(graph: BackwardGraph, flow: DataFlow) -> tuple[str, str]:
    """Why nothing requires grad although no recorded operation is to blame, and what to do."""
    fix = "make a parameter that forward uses, or an input, require grad"
    computed = [name for name in flow.returned if graph.fx_nodes_by_name[name].op.startswith("call")]
    starts = [fx_node.target for fx_node in graph.forward if fx_node.name in flow.returned and not fx_node.inputs]
    used = [graph.variables_by_name[name] for name in starts if name in graph.variables_by_name]
    parameters = [variable for variable in used if variable.kind == "parameter"]
    asking = [variable.name for variable in parameters if variable.requires_grad]
    if asking:
        return f"Forward passes {join_words(map(quote_code, asking))} to operations that return no gradient.", fix
    if not computed and not used:
        return (
            "No recorded operation computes it.",
            "use what forward computes; with fxgrad.record, compute the loss inside of it",
        )
    if not parameters:
        return "Forward uses nothing that requires grad, and no parameter, to compute its output.", fix
    count, are = count_noun(len(parameters), "parameter"), pluralize(len(parameters), "is", plural="are")
    return f"Forward uses nothing that requires grad to compute its output: the {count} it uses {are} frozen.", fix


# FXG204

_FXG204 = Page(
    code="FXG204",
    title="Autograd sees no use of these parameters",
    what="""
    Parameters stay as they were initialized. DistributedDataParallel raises "Expected to have finished reduction in
    the prior iteration before starting a new one".
    """,
    why="""
    No operation that autograd sees uses the parameter: its module is never called, or only on another branch; or it is
    used inside the forward of a custom Function without being an argument of its apply. DistributedDataParallel counts
    the gradients that arrive and waits for the missing ones, also for those that are lost on the way (FXG201).
    """,
    source="torch/nn/parallel/distributed.py; torch/csrc/distributed/c10d/reducer.cpp",
    example="""
    >>> import torch
    >>> class Heads(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.one, self.two = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    ...     def forward(self, x):
    ...         return self.one(x)
    >>> model = Heads()
    >>> model(torch.ones(4, 3)).sum().backward()
    >>> [name for name, parameter in model.named_parameters() if parameter.grad is None]
    ['two.weight', 'two.bias']
    """,
    fix="""
    Use them, remove them from the model, or freeze them with requires_grad_(False). If the branch depends on the data,
    pass find_unused_parameters=True to DistributedDataParallel.
    """,
)


def _explain_unused_parameters(graph: BackwardGraph) -> Iterator[Explanation]:
    """Parameters that require grad and that no recorded operation uses."""
    replaced = _list_replaced(graph)
    unused = [
        lost
        for lost in find_lost_gradients(graph)
        if lost.why is WhyLost.UNUSED and lost.parameter.name not in replaced
    ]
    if unused:
        yield Explanation(
            code="FXG204",
            severity="warning",
            headline=(
                f"autograd sees no use of {_join_parameters(unused)}{_name_silenced(graph, unused)}"
                f"{_name_never_called(graph, unused)}"
            ),
            because=" ".join(_list_unused_reasons(graph, unused)),
            fix=(
                f"use {_choose_pronoun(unused)}, or {_advise_freezing(unused)}; with DistributedDataParallel, pass "
                "find_unused_parameters=True"
            ),
            owner=unused[0].parameter.name,
        )


def _name_never_called(graph: BackwardGraph, unused: Sequence[LostGradient]) -> str:
    silent = _list_never_called(graph, [lost.parameter for lost in unused])
    if not silent:
        return ""
    return f": {join_words(map(name_module, silent))} {pluralize(len(silent), 'is', plural='are')} never called"


def _list_unused_reasons(graph: BackwardGraph, unused: Sequence[LostGradient]) -> Iterator[str]:
    silent = _list_never_called(graph, [lost.parameter for lost in unused])
    if silent:
        yield f"{join_words(map(name_module, silent))} {pluralize(len(silent), 'is', plural='are')} never called."
    yield f"No recorded operation uses {_choose_pronoun(unused)}, so backward leaves .grad unchanged: None at first."
    yield (
        "DistributedDataParallel waits for the gradient of every parameter, and raises `Expected to have finished "
        "reduction in the prior iteration` in the next forward. (torch/nn/parallel/distributed.py)"
    )


# FXG206

_FXG206 = Page(
    code="FXG206",
    title="A reentrant checkpoint gets nothing that requires grad",
    what="""
    Parameters inside a checkpointed block get no gradient, and their hooks never fire: for example adapters behind a frozen
    embedding. PyTorch warns: "None of the inputs have requires_grad=True. Gradients will be None".
    """,
    why="""
    checkpoint(use_reentrant=True) runs the block under no_grad, and again when backward comes to it. It is a custom
    Function whose arguments are those of the block. If none of them requires grad, its results do not either, whatever
    parameters the block uses, and backward never comes to it. Tensors inside of containers, and those that the block
    closes over, are no arguments of the Function. The same holds for other Functions that run modules in forward, and
    again in backward: reversible blocks, checkpoints of one's own.
    """,
    source="torch/utils/checkpoint.py, CheckpointFunction and check_backward_validity",
    example="""
    >>> import torch, warnings
    >>> from torch.utils.checkpoint import checkpoint
    >>> linear, x = torch.nn.Linear(3, 3), torch.ones(2, 3)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     print(checkpoint(linear, x, use_reentrant=True).requires_grad)
    False
    >>> checkpoint(linear, x, use_reentrant=False).requires_grad
    True
    """,
    fix="""
    Pass use_reentrant=False. Or make a floating point argument of the block require grad: call requires_grad_() on it, or
    register a forward hook on the frozen module before it that does so, as enable_input_require_grads() of transformers
    does.
    """,
)


def _explain_gradless_checkpoints(graph: BackwardGraph) -> Iterator[Explanation]:
    """Parameters are used only inside reentrant checkpoints, or Functions like them, that get nothing with grad."""
    groups: dict[Gradless, list[LostGradient]] = {}
    for lost in find_lost_gradients(graph):
        if lost.why is WhyLost.GRADLESS and (found := find_gradless(lost.at[0])) is not None:
            groups.setdefault(found, []).append(lost)
    for gradless, group in groups.items():
        yield Explanation(
            code="FXG206",
            severity="warning",
            headline=(
                f"no gradient reaches {_join_parameters(group)}{_name_silenced(graph, group)}: "
                f"{_summarize_gradless(group[0])}"
            ),
            because=explain_gradless(gradless),
            fix=advise_on_gradless(gradless),
            owner=group[0].parameter.name,
            source=gradless.source,
        )


RULES = (
    Rule(_FXG201, graph_rules=(_explain_lost_gradients, _explain_computed_tensors, _explain_frozen_parameters)),
    Rule(_FXG202),  # told by `fxgrad.trace`, which has no graph to return then
    Rule(_FXG204, graph_rules=(_explain_unused_parameters,)),
    Rule(_FXG206, graph_rules=(_explain_gradless_checkpoints,)),
)

"""Which node a hook sits on: FXG101 and FXG103."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, TensorRef
from fxgrad.graph.hook_sites import PlacedSite
from fxgrad.graph.names import describe_grad_inputs
from fxgrad.graph.text import (
    count_noun,
    escape,
    format_argument,
    format_meta,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
    quote_code,
)
from fxgrad.rules.downstream import ParameterWay, parameter_ways
from fxgrad.rules.full_view import full_hook_advice, given_tensors
from fxgrad.rules.subject import Spot, Subject

MODULE_PY = "(torch/nn/modules/module.py, Module._call_impl)"
_MOST_PARAMETERS = 4
_SHORT_WAY = 3
_GENERAL_ADVICE = "register_full_backward_hook, which sees the module's own arguments and results"


def legacy_hook_sits_on_a_node(subject: Subject) -> Iterator[Explanation]:
    """FXG101: a non-full hook is a hook on one autograd node."""
    if not subject.hook.kind.is_legacy or not subject.placed:
        return
    placed = subject.placed[0]
    whole = _is_whole_module(placed)
    yield Explanation(
        code="FXG101",
        severity="info" if whole else "warning",
        headline="a non-full hook sits on one autograd node"
        + (", which here is the whole module" if whole else ", not on the module"),
        because=" ".join(_legacy_because(subject, placed)),
        fix=full_hook_advice(subject, placed.call) if placed.call else _GENERAL_ADVICE,
        site=placed.site,
    )


def _is_whole_module(placed: PlacedSite) -> bool:
    """Whether the node's entries are the module's own, one for one."""
    _, node, call = placed
    if call is None or call.n_args != len(node.edges) or call.n_results != len(node.grad_outputs):
        return False
    inputs = [(ref.path, ref.node, ref.slot) for ref in call.inputs]
    edges = [(("args", at), edge.next_node, edge.input_nr) for at, edge in enumerate(node.edges)]
    outputs = [(ref.node, ref.slot) for ref in call.outputs]
    return inputs == edges and outputs == [(node.id, slot) for slot in range(call.n_results)]


def _legacy_because(subject: Subject, placed: PlacedSite) -> Iterator[str]:
    yield _attached(subject, placed)
    yield _entries(placed)
    if placed.call is not None:
        yield f"{name_forward(placed.call)} was given {given_tensors(placed.call)}."
    ways = parameter_ways(subject, placed.site)
    yield from filter(None, (_parameters_in(subject, ways), _parameters_behind(subject, ways)))
    yield MODULE_PY


def _attached(subject: Subject, placed: PlacedSite) -> str:
    _, node, call = placed
    returned = f"the first tensor that {name_forward(call)} returned" if call else "the first tensor of the result"
    which = f" (call {call.index})" if call and len(subject.placed) > 1 else ""
    return f"PyTorch put {name_hook_function(subject.hook)} on the grad_fn of {returned}: {escape(node.label)}{which}."


def _entries(placed: PlacedSite) -> str:
    site, node, _ = placed
    names = [escape(gradient.argument or f"[{gradient.index}]") for gradient in site.grad_input]
    shown = f" ({join_words(names)})" if names else ""
    number = count_noun(len(names), "entry", plural="entries")
    return f"grad_input has {number}, one per {describe_grad_inputs(node)}{shown}; grad_output has {len(site.grad_output)}."


def _parameters_in(subject: Subject, ways: Sequence[ParameterWay]) -> str:
    """The module's parameters that are arguments of the function itself."""
    direct = [way for way in ways if not way.through]
    names = join_words(quote_code(_short(subject, way)) for way in direct)
    verb, noun = ("is", "entry") if len(direct) == 1 else ("are", "entries")
    return f"{names} {verb} {noun} {join_words(str(way.entry) for way in direct)}." if direct else ""


def _parameters_behind(subject: Subject, ways: Sequence[ParameterWay]) -> str:
    """The module's parameters whose gradients come out further down."""
    behind = [way for way in ways if way.through]
    more = len(behind) - _MOST_PARAMETERS
    told = [_behind(subject, way) for way in behind[:_MOST_PARAMETERS]] + ([f"{more} more"] if more > 0 else [])
    verb = "comes the gradient" if len(behind) == 1 else "come the gradients"
    return f"Further down {verb} of {'; '.join(told)}." if behind else ""


def _behind(subject: Subject, way: ParameterWay) -> str:
    variable = subject.graph.variables_by_name.get(way.name)
    shape = f" {format_meta(variable.meta)}" if variable else ""
    near = len(way.through) <= _SHORT_WAY
    through = f" through {join_words(escape(node.label) for node in way.through)}" if near else ""
    return f"{quote_code(_short(subject, way))}{shape} at {escape(way.leaf.label)}{through}"


def _short(subject: Subject, way: ParameterWay) -> str:
    return way.name.removeprefix(f"{subject.path}.")


def node_belongs_to_another_module(subject: Subject) -> Iterator[Explanation]:
    """FXG103: the first tensor of the result was made by another module's call."""
    strangers = [spot for spot in subject.spots if _is_made_elsewhere(subject, spot)]
    if subject.hook.kind.is_legacy and strangers:
        yield _elsewhere(subject, strangers[0])


def _is_made_elsewhere(subject: Subject, spot: Spot) -> bool:
    maker = subject.index.maker(spot.node)
    if maker is not None and subject.index.is_within(maker.id, spot.call.id):
        return maker.id != spot.call.id
    return _is_earlier(spot) and (maker is not None or _returned_argument(spot) is not None)


def _is_earlier(spot: Spot) -> bool:
    """Whether the node was made before the call: one that a view's grad_fn is made anew for may be later."""
    return spot.node.sequence_nr is not None and spot.node.sequence_nr < spot.call.sequence_window[0]


def _returned_argument(spot: Spot) -> TensorRef | None:
    """The argument that forward returned as it was, if it did."""
    first = spot.call.legacy_tensor
    if first is None or first.node is None:
        return None
    return next((ref for ref in spot.call.inputs if (ref.node, ref.slot) == (first.node, first.slot)), None)


def _elsewhere(subject: Subject, spot: Spot) -> Explanation:
    maker = subject.index.maker(spot.node)
    inside = maker is not None and subject.index.is_within(maker.id, spot.call.id)
    owner = f"{name_module(maker.path)} ({escape(maker.type_name)})" if maker else "code before the module"
    return Explanation(
        code="FXG103",
        severity="info" if inside else "warning",
        headline=f"the node belongs to {owner}, {'inside' if inside else 'not to'} {name_module(subject.path)}",
        because=f"{_came_from(spot, owner, inside=inside)} {MODULE_PY}",
        fix="register_full_backward_hook, which puts nodes of its own around the module's arguments and results",
        site=spot.site,
    )


def _came_from(spot: Spot, owner: str, *, inside: bool) -> str:
    label, forward = escape(spot.node.label), name_forward(spot.call)
    if inside:
        return (
            f"The first tensor that {forward} returned was made in {owner}: the hook sits on {label}, where a "
            "non-full hook on that module would sit, and sees that function's gradients only."
        )
    argument = _returned_argument(spot)
    how = (
        f"returned its argument {quote_code(format_argument(spot.call.argument_names, argument.path))} as it is"
        if argument
        else "made no node"
    )
    return f"{forward} {how}: the first tensor of the result still has the grad_fn from {owner}, {label}."

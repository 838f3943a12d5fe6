"""What gets no gradient, and why: FXG201, FXG202 and FXG204."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import BackwardGraph, Explanation, FxNode, Source, Variable
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import count_noun, join_words, name_module, quote_code
from fxgrad.rules.data_flow import DataFlow
from fxgrad.rules.lost_gradients import Loss, Lost, lost_gradients
from fxgrad.rules.operations import (
    at_line,
    cut_in_short,
    cut_remedy,
    cut_sentence,
    operation_name,
    place,
    taken_remedy,
    taken_sentence,
    unpassed_sentence,
)

_MOST_PLACES = 3
_REQUIRES_GRAD_CPP = "(torch/csrc/autograd/functions/utils.h, compute_requires_grad)"
_UNANSWERED = (Loss.UNUSED, Loss.RECOMPUTED, Loss.UNKNOWN)


def parameter_gets_no_gradient(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG201: forward uses a parameter, and no gradient reaches it. Those lost on the same lines are told together."""
    groups: dict[tuple[object, ...], list[Lost]] = {}
    for lost in lost_gradients(graph):
        if lost.why not in _UNANSWERED:
            places = dict.fromkeys(
                (fx_node.source, operation_name(fx_node), fx_node.grad_enabled) for fx_node in lost.at
            )
            groups.setdefault((lost.why, *places), []).append(lost)
    yield from (_lost_together(graph, group) for group in groups.values())


def _lost_together(graph: BackwardGraph, group: Sequence[Lost]) -> Explanation:
    first = group[0]
    return Explanation(
        code="FXG201",
        severity="warning",
        headline=f"no gradient reaches {_names(group)}: {lost_at(first)}",
        because=" ".join(_lost_because(graph, first, _them(group))),
        fix=f"{_lost_remedy(first)}, {_freeze(group)}",
        owner=first.parameter.name,
        source=_source(first),
    )


def _names(group: Sequence[Lost]) -> str:
    return join_words(quote_code(lost.parameter.name) for lost in group)


def _freeze(group: Sequence[Lost]) -> str:
    them, are = ("it", "it is") if len(group) == 1 else ("them", "they are")
    return f"or freeze {them} with requires_grad_(False) if {are} not to be trained"


def _source(lost: Lost) -> Source | None:
    first = lost.at[0] if lost.at else None
    if first is None:
        return None
    return first.taken[-1].source if lost.why is Loss.DROPPED and first.taken else first.source


def lost_at(lost: Lost) -> str:
    """How a gradient was lost, in a few words."""
    match lost.why:
        case Loss.CUT:
            return cut_in_short(lost.at[0])
        case Loss.NOT_PASSED:
            return f"{operation_name(lost.at[0])}{_at(lost)} gives it none"
        case Loss.NOT_ASKED:
            return "no gradient comes to the output that depends on it"
        case Loss.DROPPED if lost.at and lost.at[0].taken:
            return f"its value leaves torch{_at(lost)}"
        case Loss.DROPPED:
            return "autograd sees no use of what is computed there"
        case Loss.UNUSED:
            return "autograd sees no use of it"
        case _:
            return "no root depends on it"


def why_lost(graph: BackwardGraph, lost: Lost) -> str:
    """How a gradient was lost, where its module is never called saying that."""
    owner = lost.parameter.name.rpartition(".")[0]
    if lost.why is not Loss.RECOMPUTED:
        silent = graph.info.calls_reason is None and never_called(graph, [lost.parameter])
        return f"{lost_at(lost)}: {name_module(owner)} is never called" if silent else lost_at(lost)
    is_checkpoint = graph.nests_in_checkpoints
    runs = "a reentrant checkpoint runs" if is_checkpoint else f"{join_labels(graph.nesting)} may run"
    if owner in graph.recomputed_modules:
        return f"only backward decides: {runs} {name_module(owner)} again then"
    return f"no root depends on it, outside of what {runs} {'again in backward' if is_checkpoint else 'in a backward of its own'}"


def _at(lost: Lost) -> str:
    return at_line(_source(lost))


def _lost_because(graph: BackwardGraph, lost: Lost, them: str) -> Iterator[str]:
    match lost.why:
        case Loss.CUT:
            yield f"Forward uses {them}, but what it computes from {them} stops requiring grad on the way to the output."
            yield from map(cut_sentence, lost.at[:_MOST_PLACES])
        case Loss.NOT_PASSED:
            yield from (unpassed_sentence(fx_node, them) for fx_node in lost.at[:_MOST_PLACES])
        case Loss.NOT_ASKED:
            yield f"Something that forward returns depends on {them}, but gets no gradient from what backward starts from:"
            yield f"{graph.info.root_rule}."
        case _:
            yield from map(_end_sentence, lost.at[:_MOST_PLACES])
            yield "No recorded operation leads from there to what forward returns."
    if len(lost.at) > _MOST_PLACES:
        yield f"And at {count_noun(len(lost.at) - _MOST_PLACES, 'more place')}."
    yield f"Backward leaves .grad as it is: None at first. {_REQUIRES_GRAD_CPP}"


def _end_sentence(fx_node: FxNode) -> str:
    if fx_node.taken:
        return taken_sentence(fx_node)
    return f"{place(fx_node.source)}, {operation_name(fx_node)} is the last recorded operation on it."


def _lost_remedy(lost: Lost) -> str:
    match lost.why:
        case Loss.CUT:
            return cut_remedy(lost.at[0])
        case Loss.NOT_PASSED:
            return f"replace {operation_name(lost.at[0])} by what can be differentiated by this argument"
        case Loss.NOT_ASKED:
            return "let what you call backward on depend on that output"
        case _ if lost.at and lost.at[0].taken:
            return taken_remedy(lost.at[0])
        case _:
            return "use what is computed there"


def parameter_is_not_used(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG204: parameters that require grad and that no recorded operation of forward was given."""
    unused = [lost for lost in lost_gradients(graph) if lost.why is Loss.UNUSED]
    if unused:
        yield Explanation(
            code="FXG204",
            severity="warning",
            headline=f"autograd sees no use of {_names(unused)}",
            because=" ".join(_unused_because(graph, unused)),
            fix=f"use {_them(unused)}, {_freeze(unused)}; under DistributedDataParallel, find_unused_parameters=True",
            owner=unused[0].parameter.name,
        )


def _them(group: Sequence[Lost]) -> str:
    return "it" if len(group) == 1 else "them"


def _unused_because(graph: BackwardGraph, unused: Sequence[Lost]) -> Iterator[str]:
    silent = never_called(graph, [lost.parameter for lost in unused])
    if silent:
        yield f"{join_words(map(name_module, silent))} {'is' if len(silent) == 1 else 'are'} never called."
    yield f"No operation that was recorded was given {_them(unused)}, so backward leaves .grad as it is: None at first."
    yield (
        "DistributedDataParallel waits for the gradient of every parameter, and raises `Expected to have finished "
        "reduction in the prior iteration` in the next forward. (torch/nn/parallel/distributed.py)"
    )


def never_called(graph: BackwardGraph, parameters: Sequence[Variable]) -> tuple[str, ...]:
    """The modules that hold these parameters and have no call."""
    owners = dict.fromkeys(parameter.name.rpartition(".")[0] for parameter in parameters)
    known = (owner for owner in owners if owner in graph.modules_by_path)
    return tuple(owner for owner in known if not graph.calls_per_module[graph.modules_by_path[owner].path])


def parameter_is_frozen(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG201: parameters that require no grad."""
    frozen = [each for each in graph.variables if each.kind == "parameter" and not each.requires_grad]
    if frozen:
        several = len(frozen) > 1
        yield Explanation(
            code="FXG201",
            severity="info",
            headline=f"{count_noun(len(frozen), 'parameter')} {'are' if several else 'is'} frozen",
            because=(
                f"requires_grad is False for {join_words(quote_code(each.name) for each in frozen)}: backward leaves .grad as it "
                "is, None at first."
            ),
            fix=f"requires_grad_(True) on {'those' if several else 'it'}, if {'they are' if several else 'it is'} to be trained",
            owner=frozen[0].name,
        )


def tensor_is_no_leaf(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG201: a tensor that the model holds, or was given, was computed from others before forward."""
    for variable in graph.variables:
        if not variable.is_leaf and variable.requires_grad and not variable.retains_grad and _is_older(graph, variable):
            yield _no_leaf(variable)


def _is_older(graph: BackwardGraph, variable: Variable) -> bool:
    if variable.node is None or not graph.calls:
        return False
    made = graph.nodes[variable.node].sequence_nr
    return made is not None and made < graph.calls[0].sequence_window[0]


def _no_leaf(variable: Variable) -> Explanation:
    is_input = variable.kind == "input"
    return Explanation(
        code="FXG201",
        severity="info" if is_input else "warning",
        headline=f"{quote_code(variable.name)} is no leaf: its .grad stays None",
        because=(
            f"{quote_code(variable.name)} was computed before forward from tensors that require grad. Backward adds "
            "gradients into leaves alone, and optimizers refuse anything else. (torch/_tensor.py, Tensor.is_leaf)"
        ),
        fix=(
            f"{quote_code(variable.name)}.retain_grad() before backward, if its gradient is what you want; make it a leaf "
            "with .detach().requires_grad_(), or an nn.Parameter, if it is to be trained"
        ),
        owner=variable.name,
    )


def nothing_requires_grad(graph: BackwardGraph) -> Explanation:
    """FXG202: of a forward of which no output requires grad, the cut that is nearest to the output."""
    flow = DataFlow(graph)
    cut = flow.last_cut_before(flow.ends)
    taken = next((fx_node for fx_node in reversed(graph.forward) if _is_taken(fx_node)), None)
    if cut is not None:
        return _no_loss(cut_sentence(cut), cut_remedy(cut), cut.source)
    if taken is not None:
        return _no_loss(taken_sentence(taken), taken_remedy(taken), taken.taken[-1].source)
    return _no_loss(_nothing_to_cut(graph, flow), "let a parameter that forward uses, or an input, require grad", None)


def _is_taken(fx_node: FxNode) -> bool:
    return bool(fx_node.taken) and any(fx_node.requires_grad)


def _no_loss(because: str, fix: str, source: Source | None) -> Explanation:
    headline = "nothing that backward could start from requires grad"
    return Explanation("FXG202", "error", headline, because, fix, source=source)


def _nothing_to_cut(graph: BackwardGraph, flow: DataFlow) -> str:
    starts = [fx_node.target for fx_node in graph.forward if fx_node.name in flow.returned and not fx_node.inputs]
    used = [graph.variables_by_name[name] for name in starts if name in graph.variables_by_name]
    parameters = [variable for variable in used if variable.kind == "parameter"]
    asking = [variable.name for variable in parameters if variable.requires_grad]
    if asking:
        return f"Forward gives {join_words(map(quote_code, asking))} to operations that give no gradient back."
    if not parameters:
        return "Nothing that forward computes its output from requires grad, and no parameter is among it."
    return (
        "Nothing that forward computes its output from requires grad: of its "
        f"{count_noun(len(parameters), 'parameter')} all are frozen."
    )

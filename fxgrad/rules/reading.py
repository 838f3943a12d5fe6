"""A module hook that reads .grad of parameters: FXG113."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, Node, Variable
from fxgrad.graph.hook_sites import PlacedSite
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import count_noun, escape, join_words, name_hook_function, quote_code
from fxgrad.rules.subject import Subject

_EACH = "parameters()"


def hook_reads_grad_too_early(subject: Subject) -> Iterator[Explanation]:
    """FXG113: a module hook reads .grad of a parameter, which backward adds to later."""
    placed = next((placed for placed in subject.placed if placed.site.fires is not False), None)
    if placed is None or not subject.hook.grad_reads:
        return
    late = _accumulated_after(subject, placed)
    if late:
        names = join_words(quote_code(variable.name) for variable, _ in late)
        yield Explanation(
            code="FXG113",
            severity="warning",
            headline=f"{name_hook_function(subject.hook)} reads .grad of {names} before backward adds to it",
            because=_because(subject, placed, [node for _, node in late]),
            fix=_remedy(late),
            site=placed.site,
        )


def _accumulated_after(subject: Subject, placed: PlacedSite) -> list[tuple[Variable, Node]]:
    """The parameters that the hook reads, with their AccumulateGrad, where that runs after the hook."""
    predicted, nodes = subject.index.predicted_nodes, subject.graph.nodes
    ran = predicted[placed.node.id].rank
    found = []
    for variable in _read(subject):
        rank = None if variable.node is None else predicted[variable.node].rank
        if variable.node is not None and rank is not None and ran is not None and rank > ran:
            found.append((variable, nodes[variable.node]))
    return found


def _read(subject: Subject) -> list[Variable]:
    """The parameters that the hook's paths lead to from its module, in the order of the variables."""
    prefix = f"{subject.path}." if subject.path else ""
    named, ranks = subject.graph.variables_by_name, set[int]()
    for way in (prefix + read for read in subject.hook.grad_reads):
        if way.endswith(_EACH):
            ranks.update(subject.index.parameters_within.get(way.removesuffix(_EACH).removesuffix("."), ()))
        elif way in named:
            ranks.add(subject.index.variable_ranks[named[way].name])
    variables = [subject.graph.variables[rank] for rank in sorted(ranks)]
    return [variable for variable in variables if variable.kind == "parameter"]


def _because(subject: Subject, placed: PlacedSite, leaves: Sequence[Node]) -> str:
    ways = join_words(
        quote_code(f"module.{way}.grad" if way != _EACH else f"module.{way}") for way in subject.hook.grad_reads
    )
    later = "runs" if len(leaves) == 1 else "run"
    return (
        f"Its code reads {ways}. The hook is called at {escape(placed.node.label)}; {join_labels(leaves)}, which "
        f"{'adds' if len(leaves) == 1 else 'add'} into .grad, {later} later. So it sees what was there before this "
        "backward: None at first. (torch/csrc/autograd/functions/accumulate_grad.cpp)"
    )


def _remedy(late: Sequence[tuple[Variable, Node]]) -> str:
    first = late[0][0].name
    more = f" (and on {count_noun(len(late) - 1, 'more parameter')})" if len(late) > 1 else ""
    return f"register_post_accumulate_grad_hook on {quote_code(first)}{more}, which is called when .grad is there"

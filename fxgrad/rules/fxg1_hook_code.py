"""What the code of a hook reads and holds: FXG113 and FXG116."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, Held, Node, Variable
from fxgrad.graph.backward_graph import PlacedSite
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import (
    count_noun,
    escape,
    join_words,
    name_hook_function,
    name_module,
    quote_code,
)
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import Subject

# FXG113

_FXG113 = Page(
    code="FXG113",
    title="param.grad inside a module hook",
    what="""
    module.weight.grad is None in a backward hook of the module, or has the value of the last step.
    """,
    why="""
    AccumulateGrad adds to .grad. It is a node of its own, which the engine runs in its own order. A full hook runs when
    the gradients of the module's inputs are complete; whether those of the parameters are too depends on the graph. If
    no input requires grad, the hook runs before the module's own nodes.
    """,
    source="torch/csrc/autograd/engine.cpp; torch/csrc/autograd/functions/accumulate_grad.cpp",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> def show(module, grad_input, grad_output):
    ...     print(module.weight.grad)
    >>> handle = linear.register_full_backward_hook(show)
    >>> linear(torch.ones(4, 3)).sum().backward()
    None
    """,
    fix="""
    Use parameter.register_post_accumulate_grad_hook, which is called with the parameter when its .grad is ready.
    """,
)

_EACH = "parameters()"


def _explain_early_read(subject: Subject) -> Iterator[Explanation]:
    """A module hook reads .grad of a parameter, which backward adds to later."""
    placed = next((placed for placed in subject.placed if placed.site.fires is not False), None)
    if placed is None or not subject.hook.grad_reads:
        return
    late = _list_late_parameters(subject, placed)
    if late:
        names = join_words(quote_code(variable.name) for variable, _ in late)
        yield Explanation(
            code="FXG113",
            severity="warning",
            headline=f"{name_hook_function(subject.hook)} reads .grad of {names} before backward adds to it",
            because=_explain_order(subject, placed, [node for _, node in late]),
            fix=_advise_on_reading([variable for variable, _ in late]),
            site=placed.site,
        )


def _list_late_parameters(subject: Subject, placed: PlacedSite) -> list[tuple[Variable, Node]]:
    """The parameters that the hook reads, with their AccumulateGrad, where that runs after the hook."""
    predicted, nodes = subject.facts.predicted_nodes, subject.graph.nodes
    hook_rank = predicted[placed.node.id].rank
    found = []
    for variable in _list_read_parameters(subject):
        rank = None if variable.node is None or variable.earlier else predicted[variable.node].rank
        if variable.node is not None and rank is not None and hook_rank is not None and rank > hook_rank:
            found.append((variable, nodes[variable.node]))
    return found


def _list_read_parameters(subject: Subject) -> list[Variable]:
    """The parameters that the hook's paths lead to from its module, in the order of the variables."""
    prefix = f"{subject.path}." if subject.path else ""
    named, ranks = subject.graph.variables_by_name, set[int]()
    for path in (prefix + read for read in subject.hook.grad_reads):
        if path.endswith(_EACH):
            ranks.update(subject.facts.parameters_within.get(path.removesuffix(_EACH).removesuffix("."), ()))
        elif path in named:
            ranks.add(subject.facts.variable_ranks[named[path].name])
    variables = [subject.graph.variables[rank] for rank in sorted(ranks)]
    return [variable for variable in variables if variable.kind == "parameter"]


def _explain_order(subject: Subject, placed: PlacedSite, leaves: Sequence[Node]) -> str:
    reads = join_words(
        quote_code(f"module.{path}.grad" if path != _EACH else f"module.{path}") for path in subject.hook.grad_reads
    )
    adds, runs = ("adds", "runs") if len(leaves) == 1 else ("add", "run")
    return (
        f"Its code reads {reads}. The hook is called at {escape(placed.node.label)}; {join_labels(leaves)}, which "
        f"{adds} to .grad, {runs} later. So it sees .grad from before this backward: None at first. "
        "(torch/csrc/autograd/functions/accumulate_grad.cpp)"
    )


def _advise_on_reading(late: Sequence[Variable]) -> str:
    more = f" (and on {count_noun(len(late) - 1, 'more parameter')})" if len(late) > 1 else ""
    name = quote_code(late[0].name)
    return f"register_post_accumulate_grad_hook on {name}{more}, which is called when .grad is ready"


# FXG116

_FXG116 = Page(
    code="FXG116",
    title="A hook keeps the graph alive",
    what="""
    Memory grows with each step, or is not freed after backward.
    """,
    why="""
    A hook function keeps alive what it refers to: closure variables, defaults, arguments of a partial. If that is a
    tensor with a grad_fn, the graph behind it and all its saved tensors live as long as the hook: on a module or a
    parameter, until the handle is removed.

    If the hook is on a tensor or node of that graph, the node holds the hook and the hook holds the graph. This
    reference cycle goes through C++, where Python's garbage collector does not look, so it is never freed.
    """,
    source="torch/csrc/autograd/python_hook.cpp; torch/utils/hooks.py",
    example="""
    >>> import gc, torch, weakref
    >>> class Big: pass
    >>> def step(hook_on_it):
    ...     output = torch.nn.Linear(3, 3)(torch.ones(1, 3))
    ...     output.grad_fn.metadata["big"] = big = Big()
    ...     if hook_on_it:
    ...         handle = output.register_hook(lambda grad: print(output.shape))
    ...     return weakref.ref(big)
    >>> for hook_on_it in (False, True):
    ...     seen = step(hook_on_it)
    ...     collected = gc.collect()
    ...     print("alive" if seen() else "freed")
    freed
    alive
    """,
    fix="""
    Let the hook refer to output.detach(), a shape or a number instead of the tensor itself; or remove the handle after
    backward.
    """,
)


def _explain_kept_graph(subject: Subject) -> Iterator[Explanation]:
    """A hook's function holds a tensor that has a graph behind it."""
    held = subject.hook.holds
    if not held or not subject.hook.active:
        return
    if subject.hook.kind.is_module or _is_on_leaf(subject):
        yield _explain_registered_hook(subject, held)
        return
    circular = [each for each in held if _leads_back(subject, each)]
    if circular:
        yield _explain_circle(subject, circular)


def _is_on_leaf(subject: Subject) -> bool:
    names = subject.hook.targets or (subject.path,)
    variables = [subject.graph.variables_by_name.get(name) for name in names]
    return any(variable is not None and variable.is_leaf for variable in variables)


def _leads_back(subject: Subject, held: Held) -> bool:
    """Whether the hook is on a node of the graph behind the tensor that its function holds."""
    nodes = [placed.node.id for placed in subject.placed]
    return held.node is not None and any(subject.graph.path(held.node, node) is not None for node in nodes)


def _explain_registered_hook(subject: Subject, held: Sequence[Held]) -> Explanation:
    inside = all(each.is_inside for each in held)
    names = _join_held(held)
    owner = name_module(subject.path) if subject.hook.kind.is_module else quote_code(subject.path)
    until = ", or what it holds is emptied" if inside else ""
    return Explanation(
        code="FXG116",
        severity="info" if inside else "warning",
        headline=f"{name_hook_function(subject.hook)} keeps a graph alive through {names}",
        because=(
            f"Its function refers to {names}, and so to a graph and its saved tensors. The hook is on {owner}, which "
            f"lives on, so the graph does too, until the handle is removed{until}. (torch/utils/hooks.py)"
        ),
        fix=_advise_detaching(names),
        site=subject.sites[0],
    )


def _explain_circle(subject: Subject, held: Sequence[Held]) -> Explanation:
    names = _join_held(held)
    return Explanation(
        code="FXG116",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} keeps its own graph alive through {names}",
        because=(
            f"Its function refers to {names}, whose graph has the node that the hook is on, "
            f"{escape(subject.placed[0].node.label)}. That node holds the hook in C++, where the garbage collector "
            "does not see the reference cycle: the graph is not freed before the handle is removed. "
            "(torch/csrc/autograd/python_hook.cpp)"
        ),
        fix=_advise_detaching(names),
        site=subject.placed[0].site,
    )


def _join_held(held: Sequence[Held]) -> str:
    return join_words(dict.fromkeys(quote_code(each.name) for each in held))


def _advise_detaching(names: str) -> str:
    return f"hold {names} detached, or only what the hook needs; or remove the handle after backward"


RULES = (
    Rule(_FXG113, hook_rules=(_explain_early_read,)),
    Rule(_FXG116, hook_rules=(_explain_kept_graph,)),
)

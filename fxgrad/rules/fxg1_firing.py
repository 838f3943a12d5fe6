"""Whether and when a hook fires: FXG104, FXG105 and FXG114."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, HookSite, Module, ModuleCall, Node, Source, TensorRef
from fxgrad.graph.hook_kinds import HookOwner
from fxgrad.graph.lookup import is_used_outside
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import (
    add_article,
    count_noun,
    end_sentence,
    escape,
    format_argument,
    format_backward_call,
    format_path,
    format_ranges,
    format_source,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
    pluralize,
    quote_code,
)
from fxgrad.rules.cuts import summarize_cut
from fxgrad.rules.data_flow import end_at
from fxgrad.rules.fxg1_full_hooks import (
    advise_input_grad,
    advise_on_result,
    is_visible,
    name_hidden_inputs,
    takes_full_hook,
)
from fxgrad.rules.fxg1_hook_returns import find_refused_return
from fxgrad.rules.fxg3_tools import find_tracer, find_transformed_call, is_lost_by_sharding
from fxgrad.rules.gradless import Gradless, advise_on_gradless, explain_gradless, find_gradless_around
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import ModuleSite, Subject, list_nodes_behind

# FXG104

_FXG104 = Page(
    code="FXG104",
    title="The hook never fires",
    what="""
    backward runs and computes gradients, but the hook is not called. There is no error and often no warning.
    """,
    why="""
    A hook fires when backward executes the node it sits on. It has no node if the call ran under no_grad, if nothing in
    the result requires grad, if the hook was registered after forward, or if the module itself was not called (only its
    forward was, or only its parameters were used). A full hook also has none if forward returns a list, a dict or a
    dataclass. And its node is not executed if the loss does not depend on the result.

    A hook on the AccumulateGrad of a parameter is lost with that node: set_, and a .data of another dtype or device,
    make PyTorch drop it, and the next forward makes another one. Hooks on a parameter stay with it when the model gets another
    one in its place: by assignment, load_state_dict(assign=True), weight_norm or copy.deepcopy.
    """,
    source=(
        "torch/nn/modules/module.py, Module._call_impl; torch/utils/hooks.py, BackwardHook; "
        "tools/autograd/gen_variable_type.py, RESET_GRAD_ACCUMULATOR; torch/csrc/autograd/variable.cpp, set_data"
    ),
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
    >>> x = torch.ones(4, 3, requires_grad=True)
    >>> linear.forward(x).sum().backward()
    >>> linear(x).sum().backward()
    fired
    """,
    fix="""
    fxgrad names the reason for each hook of your model. In general: call modules, not their forward; return a
    Tensor or a tuple of Tensors; register before forward; keep gradients enabled; use the result.
    """,
)

_MOST_REASONS = 3
_MOST_LEAVES = 3


def _explain_silence(subject: Subject) -> Iterator[Explanation]:
    """The hook never fires, without an error."""
    silent = [
        site
        for site in subject.sites
        if site.fires is False
        and site not in subject.left_out
        and not subject.facts.comes_after_the_end(site)
        and find_transformed_call(subject, site) is None
    ]
    if subject.later_change is not None:
        return  # FXG112 says it
    if not silent or not subject.hook.active or is_lost_by_sharding(subject.hook) or find_tracer(subject) is not None:
        return
    gradless = _find_gradless_owner(subject, silent)
    cause = _summarize_cause(subject, silent)
    if gradless is not None:
        cause = f"the {gradless.name}{end_at(gradless.source)} gets no argument that requires grad"
    yield Explanation(
        code="FXG104",
        severity="info" if _is_partly_disabled(subject, silent) else "warning",
        headline=f"{name_hook_function(subject.hook)} {_describe_silence(subject, silent)}{cause and f': {cause}'}",
        because=f"{explain_gradless(gradless)} See FXG206." if gradless else _join_reasons(subject, silent),
        fix=advise_on_gradless(gradless) if gradless else _advise_on_silence(subject, silent[0]),
        site=silent[0],
    )


def _is_partly_disabled(subject: Subject, silent: Sequence[HookSite]) -> bool:
    """Whether the hook is silent only for calls with gradients disabled, of a module that has others: as most mean it."""
    calls = [subject.call(site) for site in silent]
    return bool(subject.firing) and all(call is not None and not call.grad_enabled for call in calls)


def _describe_silence(subject: Subject, silent: Sequence[HookSite]) -> str:
    calls = [call.index for call in map(subject.call, silent) if call is not None]
    if len(silent) == len(subject.sites) or not calls:
        return "never fires"
    which = f"{pluralize(len(calls), 'call')} {format_ranges(calls)} of {len(subject.calls)}"
    return f"does not fire for {which}"


def _join_reasons(subject: Subject, silent: Sequence[HookSite]) -> str:
    found: dict[str, HookSite] = {}
    for site in silent:
        found.setdefault(site.reason, site)
    if len(found) == 1:
        return end_sentence(silent[0].reason)
    shown = list(found.items())[:_MOST_REASONS]
    text = " ".join(f"{_name_place(subject, site)}: {end_sentence(reason)}" for reason, site in shown)
    return text if len(found) == len(shown) else f"{text} And {count_noun(len(found) - len(shown), 'more reason')}."


def _name_place(subject: Subject, site: HookSite) -> str:
    call = subject.call(site)
    return f"Call {call.index}" if call else "Elsewhere"


def _find_gradless_owner(subject: Subject, silent: Sequence[HookSite]) -> Gradless | None:
    """What gets nothing that requires grad, so that the hook is silent; None if that is not why."""
    calls = [call for call in map(subject.call, silent) if call is not None]
    if not calls:
        return subject.facts.find_gradless(subject.path)
    around = [find_gradless_around(subject.graph, call) for call in calls]
    return around[0] if all(around) else None


def _advise_on_silence(subject: Subject, site: HookSite) -> str:
    if not subject.hook.kind.is_module:
        return _advise_on_tensors(subject)
    call = subject.call(site)
    return _advise_on_call(subject, call) if call else _advise_without_call(subject)


def _advise_on_tensors(subject: Subject) -> str:
    match subject.hook.kind.owner:
        case _ if subject.hook.outside_model:
            return (
                "register it on the parameter that the model holds, after what puts another in its place: an assignment, tied "
                "weights, load_state_dict(assign=True), weight_norm, fully_shard, copy.deepcopy"
            )
        case _ if subject.hook.computed_from:
            leaves = join_words(map(quote_code, subject.hook.computed_from), most=_MOST_LEAVES)
            return f"register it on {leaves}, or, while forward runs, on the tensor that forward computes"
        case HookOwner.TENSORS:
            return "register it on tensors that the roots of backward depend on"
        case HookOwner.NODE if subject.hook.left_by is not None:
            leaf = escape(subject.hook.left_by)
            return f"use `{leaf}.register_post_accumulate_grad_hook`: hooks on the tensor stay with it"
        case HookOwner.NODE:
            return "register it on a node between the roots of backward and the leaves that require grad"
        case _ if subject.path in subject.graph.variables_by_name:
            return f"use {quote_code(subject.path)} in what you call backward on"
        case _:
            return "register it on the tensor that the rest of forward uses, after any in-place operation on it"


def _advise_without_call(subject: Subject) -> str:
    module = subject.module
    if subject.graph.info.calls_reason is not None:
        return "trace the run itself (fxgrad.trace, fxgrad.record): finished outputs show no module calls"
    if module and module.wraps is not None and not subject.hook.kind.is_full_pre:
        return f"register it on {quote_code(module.wraps)}, the module inside, before the first call"
    if subject.calls:
        return "register the hook before forward runs: a call captures the hooks that exist when it starts"
    if _find_bare_forward(subject) is not None:
        return "call the module itself, `module(x)` for `module.forward(x)`: hooks are called by Module.__call__"
    if _are_parameters_in_graph(subject):
        return "its parameters are used without calling it: hook the module that uses them, or the parameters"
    if module and not module.parameters and subject.path in subject.facts.containers:
        if not module.has_forward:
            return "it only holds other modules: hook those"
        return f"call {name_module(module.path)} itself, or hook the modules inside that are called"
    return "call the module itself, `module(x)`: `module.forward(x)` runs no hooks"


def _summarize_cause(subject: Subject, silent: Sequence[HookSite]) -> str:
    """Why a hook never fires, to end a headline with; "" where there are several reasons, or no few words for it."""
    causes = {_name_cause(subject, subject.call(site)) for site in silent}
    return causes.pop() if len(causes) == 1 else ""


def _name_cause(subject: Subject, call: ModuleCall | None) -> str:
    if not subject.hook.kind.is_module:
        if subject.hook.outside_model:
            return "the model does not hold the nn.Parameter that it is on"
        if subject.hook.computed_from:
            return f"the tensor was computed before forward, from {join_words(map(quote_code, subject.hook.computed_from), most=_MOST_LEAVES)}"
        if subject.hook.left_by is not None:
            return "the leaf has another AccumulateGrad since"
        return _find_cut(subject, [subject.path]) or ""
    if call is None:
        return _name_cause_without_call(subject)
    carrying = [ref for ref in call.outputs if ref.requires_grad]
    used = [ref for ref in carrying if is_used_outside(subject.graph, call, ref)]
    if not call.grad_enabled:
        return "gradients are disabled where the module is called"
    if call.is_opaque:
        return _name_result_type(call)
    if not carrying:
        return "no result of the module requires grad"
    if not used:
        cut = _find_cut(subject, [ref.fx_node for ref in carrying if ref.fx_node is not None])
        return cut or "backward does not use what the module returns"
    if subject.hook.kind.is_legacy:
        return ""
    if not any(map(is_visible, used)):
        return f"backward uses {_join_paths(used)}, which the hook does not see"
    return "" if takes_full_hook(call) else _name_result_type(call)


def _find_cut(subject: Subject, names: Sequence[str]) -> str | None:
    """What cuts off values that backward does not come to, in a few words; None if no recorded operation does."""
    flow, fx_nodes = subject.facts.data_flow, subject.graph.fx_nodes_by_name
    known = [name for name in names if name in fx_nodes]
    uses = flow.find_uses(known)
    cut = next((fx_node for fx_node in uses.cuts if fx_node.name in flow.returned), None)
    if cut is not None:
        return summarize_cut(cut)
    taken = (
        next((fx_node for fx_node in flow.list_last_uses(known) if fx_node.taken), None) if not uses.returned else None
    )
    return None if taken is None else f"the value leaves torch{end_at(taken.taken[-1].source)}"


def _name_result_type(call: ModuleCall) -> str:
    return f"the module returns {add_article(escape(call.result_type))}"


def _name_cause_without_call(subject: Subject) -> str:
    if subject.calls or not subject.module or subject.graph.info.calls_reason is not None:
        return ""
    source = _find_bare_forward(subject)
    if source is None:
        return "the module is never called"
    return f"its forward was called, not the module itself ({format_source(source)})"


def _find_bare_forward(subject: Subject) -> Source | None:
    """A line in the module's forward, or one that calls it by name, that used its parameters or submodules; the module
    itself has no call."""
    module, graph = subject.module, subject.graph
    if module is None:
        return None
    leaves = {variable.node for name in module.parameters if (variable := graph.variables_by_name.get(name))}
    users = [
        graph.nodes[user].source for leaf in leaves - {None} for user in graph.users_of_slots.get((leaf or 0, 0), ())
    ]
    prefix = f"{module.path}." if module.path else ""
    inside = [call.source for call in graph.calls if call.path.startswith(prefix)]
    return next((line for line in (*users, *inside) if line is not None and _is_bare_forward(line, module)), None)


def _is_bare_forward(line: Source, module: Module) -> bool:
    """Whether the line is in the module's forward, or calls a forward without naming a parameter of the module."""
    if f".{line.function}".endswith(f".{module.type_name}.forward"):
        return True
    names = [f".{name.rpartition('.')[2]}" for name in module.parameters]
    return ".forward(" in line.code and not any(name in line.code for name in ("super()", *names))


def _are_parameters_in_graph(subject: Subject) -> bool:
    names = subject.module.parameters if subject.module else ()
    variables = (subject.graph.variables_by_name.get(name) for name in names)
    graph = subject.graph
    return any(variable is not None and graph.find_gradient_node(variable) is not None for variable in variables)


def _advise_on_call(subject: Subject, call: ModuleCall) -> str:
    if not call.grad_enabled:
        return f"call {name_module(subject.path)} with gradients enabled: this call ran under no_grad or inference_mode"
    if call.is_opaque:
        return f"{advise_on_result(call)}, or use Tensor.register_hook on the tensors in the {escape(call.result_type)}"
    carrying = [ref for ref in call.outputs if ref.requires_grad]
    if not carrying:
        return "make one of its parameters or inputs require grad, and avoid detach, integers and no_grad in forward"
    used = [ref for ref in carrying if is_used_outside(subject.graph, call, ref)]
    tensor_hook = f"use Tensor.register_hook on {_join_paths(used or carrying[:1])}"
    if subject.hook.kind.is_legacy:
        first = call.legacy_tensor
        if first is None or not first.requires_grad:
            return f"make the first tensor that it returns require grad, or {tensor_hook}"
        return f"{_advise_use(carrying[:1])}, or use register_full_backward_hook"
    if not takes_full_hook(call):
        return f"{advise_on_result(call)}, or {tensor_hook}"
    visible = [ref for ref in carrying if is_visible(ref)]
    if used or not visible:
        them = pluralize(len(used or carrying), "it", plural="them")
        return f"{tensor_hook}, or hook a module around it that returns {them} in a flat tuple"
    return f"{_advise_use(visible)}, or {tensor_hook}"


def _advise_use(carrying: Sequence[TensorRef]) -> str:
    return f"use this call's {_join_paths(carrying)} in what you call backward on"


def _join_paths(refs: Sequence[TensorRef]) -> str:
    return join_words(format_path(ref.path) for ref in refs)


_REFUSED_TENSOR = "cannot register a hook on a tensor that doesn't require gradient"


def _explain_refused_tensor(message: str) -> Explanation | None:
    """Explain the RuntimeError about a hook on a tensor that requires no grad; None for any other message."""
    if _REFUSED_TENSOR not in message:
        return None
    return Explanation(
        code="FXG104",
        severity="error",
        headline="a hook is registered on a tensor that does not require grad",
        because=(
            "A tensor requires no grad where gradients are disabled (no_grad, inference_mode), where nothing that it is "
            "computed from requires grad, after detach, and as a wrapper inside vmap or jvp of torch.func. "
            "(torch/_tensor.py, Tensor.register_hook)"
        ),
        fix=(
            "register it only `if tensor.requires_grad`; to have a gradient there, make an input or a parameter that the "
            "tensor is computed from require grad, or hook what is outside of the transform"
        ),
    )


# FXG105

_FXG105 = Page(
    code="FXG105",
    title="The hook fires before the module's backward is done",
    what="""
    grad_input is all None or lacks some of the module's inputs; parameter gradients are missing or stale when the hook
    runs.
    """,
    why="""
    A non-full hook runs right after one node of the module (FXG101); the nodes behind it, often most of the module, run
    later.

    A full hook runs when the gradients of the positional arguments are complete. If none of them requires grad, there
    is nothing to wait for: PyTorch puts no node on the inputs and calls the hook from the node on the outputs, before
    the module's own nodes run, with None for every argument, and warns. Either hook may run before the parameters'
    gradients are complete.
    """,
    source="torch/utils/hooks.py, BackwardHook.setup_output_hook",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> def show(module, grad_input, grad_output):
    ...     print(grad_input, module.weight.grad)
    >>> handle = linear.register_full_backward_hook(show)
    >>> linear(torch.ones(4, 3)).sum().backward()
    (None,) None
    """,
    fix="""
    To get the gradient of a positional input, make it require grad (x.requires_grad_()). For parameters, use
    register_post_accumulate_grad_hook, which runs when .grad is ready.
    """,
)

_MOST_NODES = 4


def _explain_early_hook(subject: Subject) -> Iterator[Explanation]:
    """The hook gets only some of the module's gradients, or runs before they are complete."""
    found: Iterator[Explanation | None] = iter(())
    if subject.hook.kind.is_legacy:
        found = (_explain_missing_inputs(subject, site) for site in subject.module_sites)
    if subject.hook.kind.is_full:
        found = (_explain_full_hook_without_input(subject, site) for site in subject.module_sites)
    first = next((explanation for explanation in found if explanation is not None), None)
    if first is not None:
        yield first


def _explain_missing_inputs(subject: Subject, site: ModuleSite) -> Explanation | None:
    if subject.graph.info.backward.inputs is not None:
        return None
    waiting = list_nodes_behind(subject, site.site)
    entries = {(edge.next_node, edge.input_nr) for edge in site.node.edges}
    missing = [ref for ref in site.call.inputs if ref.node is not None and (ref.node, ref.slot) not in entries]
    if site.site.fires is False or not waiting or not missing:
        return None
    names = [format_argument(site.call.argument_names, ref.path) for ref in missing]
    return Explanation(
        code="FXG105",
        severity="info",
        headline=f"the hook fires before backward of {name_module(subject.path)} is done",
        because=_explain_waiting(site, waiting, names),
        fix="register_full_backward_hook fires when the gradients of all positional arguments are complete",
        site=site.site,
    )


def _explain_waiting(site: ModuleSite, waiting: Sequence[Node], missing: Sequence[str]) -> str:
    more, verb = count_noun(len(waiting), "more node"), pluralize(len(waiting), "runs", plural="run")
    return (
        f"It runs right after {escape(site.node.label)}. {more} of the module {verb} later "
        f"({join_labels(waiting, most=_MOST_NODES)}), so grad_input has no entry for {join_words(missing)}."
    )


def _explain_full_hook_without_input(subject: Subject, site: ModuleSite) -> Explanation | None:
    setup = site.call.full_hook
    if site.site.fires is False or setup is None or setup.input_positions is not None:
        return None
    if find_refused_return(subject, site.site) is not None:
        return None  # FXG109 says so, and that backward raises
    hidden = name_hidden_inputs(site.call)
    unseen = f": {join_words(hidden)} {pluralize(len(hidden), 'has', plural='have')} no entry" if hidden else ""
    return Explanation(
        code="FXG105",
        severity="warning",
        headline=f"the hook fires when backward of its module begins, and its grad_input is all None{unseen}",
        because=(
            f"No positional argument of {name_forward(site.call)} requires grad, so PyTorch put no node on the inputs. "
            f"It calls the hook from the node on the outputs, {escape(site.node.label)}, with a UserWarning. "
            "(torch/utils/hooks.py, BackwardHook)"
        ),
        fix=_advise_on_inputs(subject, site.call, hidden),
        site=site.site,
    )


def _advise_on_inputs(subject: Subject, call: ModuleCall, hidden: Sequence[str]) -> str:
    if hidden:
        requires, them, arguments = (
            ("requires", "it", "a positional argument")
            if len(hidden) == 1
            else ("require", "them", "positional arguments")
        )
        return (
            f"{join_words(hidden)} {requires} grad: pass {them} as {arguments}, or use Tensor.register_hook on {them}"
        )
    asking = advise_input_grad(subject, call)
    parameters = "for the parameters' gradients, use Tensor.register_post_accumulate_grad_hook"
    return parameters if asking is None else f"{asking}; {parameters}"


# FXG114

_FXG114 = Page(
    code="FXG114",
    title="autograd.grad, or backward(inputs=), does not run the hook",
    what="""
    The hook fires in loss.backward(), but not when only the gradients of some tensors are requested.
    """,
    why="""
    With inputs, the engine executes only the nodes on a path from the roots to one of them. Hooks on other nodes are
    not called. This holds for torch.autograd.grad and for backward(inputs=).

    torch.autograd.grad does not execute the node of an input either, unless another input lies behind it: it takes the
    gradient that arrives there. Tensor hooks and retain_grad run before that; hooks on nodes and modules, and
    post-accumulate-grad hooks, do not run.
    """,
    source="torch/csrc/autograd/engine.cpp, GraphTask::init_to_execute and Engine::evaluate_function",
    example="""
    >>> import torch
    >>> first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)
    >>> handle = first.register_full_backward_hook(lambda *given: print("first fired"))
    >>> x = torch.ones(4, 3, requires_grad=True)
    >>> loss = second(first(x)).sum()
    >>> grads = torch.autograd.grad(loss, [second.weight], retain_graph=True)
    >>> grads = torch.autograd.grad(loss, [x])
    first fired
    """,
    fix="""
    Add a tensor to inputs whose gradient passes through the hook's node, or call backward without inputs.
    fxgrad.trace(...).predict(inputs=...) and fxgrad explain --inputs show which hooks such a call runs.
    """,
)


def _explain_left_out(subject: Subject) -> Iterator[Explanation]:
    """With ``inputs=`` the engine does not reach the hook's node, or does not execute it."""
    if not subject.left_out:
        return
    site = subject.left_out[0]
    call = escape(format_backward_call(subject.graph.info.backward))
    yield Explanation(
        code="FXG114",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} does not fire in {call}",
        because=(
            f"{end_sentence(site.reason)} It fires in a backward without inputs=. With inputs=, only nodes on a path "
            "to one of them are executed, and at the inputs' own nodes autograd.grad runs only the hooks on tensors. "
            "(torch/csrc/autograd/engine.cpp, GraphTask::init_to_execute)"
        ),
        fix="call backward without inputs=, or add a tensor to inputs= whose gradient passes through the hook's node",
        site=site,
    )


RULES = (
    Rule(_FXG104, hook_rules=(_explain_silence,), error_rules=(_explain_refused_tensor,)),
    Rule(_FXG105, hook_rules=(_explain_early_hook,)),
    Rule(_FXG114, hook_rules=(_explain_left_out,)),
)

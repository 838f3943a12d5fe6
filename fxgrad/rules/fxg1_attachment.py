"""Which node a non-full hook sits on: FXG101, FXG102 and FXG103."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxgrad.graph import Explanation, Landing, Node, OtherDevice, TensorRef
from fxgrad.graph.backward_graph import PlacedSite
from fxgrad.graph.names import describe_grad_inputs, name_node_function
from fxgrad.graph.text import (
    count_noun,
    end_sentence,
    escape,
    escape_unprintable,
    format_argument,
    format_meta,
    join_words,
    name_forward,
    name_hook_function,
    name_module,
    quote_code,
)
from fxgrad.rules.fxg1_full_hooks import advise_full_hook
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import ModuleSite, ParameterWay, Subject, list_parameter_ways

_MODULE_PY = "(torch/nn/modules/module.py, Module._call_impl)"


# FXG101

_FXG101 = Page(
    code="FXG101",
    title="A non-full backward hook sits on one autograd node",
    what="""
    register_backward_hook gets gradients that do not match the module's inputs: too many or too few, in another order,
    with shapes that no argument or parameter has, or None for the input.
    """,
    why="""
    After forward, PyTorch takes the first tensor in the result and registers the hook on its grad_fn, which is one
    autograd node. grad_input then has one entry per differentiable argument of the function that made this tensor, in
    the order of that function's schema; grad_output has one per result of that function. The module's own arguments and
    parameters play no part.

    So a hook on Linear gets (bias, input, transposed weight), the arguments of addmm. On the CPU, a hook on LSTMCell
    gets the two factors of the product that makes the hidden state.
    """,
    source="torch/nn/modules/module.py, Module._call_impl: `grad_fn.register_hook(wrapper)`",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(10, 20)
    >>> def show(module, grad_input, grad_output):
    ...     print([None if grad is None else tuple(grad.shape) for grad in grad_input])
    >>> handle = linear.register_backward_hook(show)
    >>> output = linear(torch.ones(8, 10))
    >>> output.grad_fn.name()
    'AddmmBackward0'
    >>> output.sum().backward()
    [(20,), None, (10, 20)]
    """,
    fix="""
    Use register_full_backward_hook, which gets one entry per positional argument and one per result. For a parameter's
    gradient, use its register_post_accumulate_grad_hook; for the gradients of one function, use
    tensor.grad_fn.register_hook.
    """,
)

_MOST_PARAMETERS = 4
_MOST_ENTRIES = 5
_SHORT_WAY = 3
_GENERAL_ADVICE = "register_full_backward_hook, which has one entry per argument and result of the module"


def _explain_node(subject: Subject) -> Iterator[Explanation]:
    """A non-full hook is a hook on one autograd node."""
    if not subject.hook.kind.is_legacy or not subject.placed:
        return
    placed = subject.placed[0]
    whole = _is_whole_module(placed)
    yield Explanation(
        code="FXG101",
        severity="info" if whole else "warning",
        headline="a non-full hook sits on one autograd node"
        + (", which here is the whole module" if whole else f", not on the module{_summarize_entries(placed)}"),
        because=" ".join(_list_node_reasons(subject, placed)),
        fix=advise_full_hook(subject, placed.call) if placed.call else _GENERAL_ADVICE,
        site=placed.site,
    )


def _summarize_entries(placed: PlacedSite) -> str:
    """What grad_input holds instead of the module's gradients, to end a headline with; "" where no argument has a name."""
    grad_input = placed.site.grad_input or ()
    names = [escape(gradient.argument) for gradient in grad_input if gradient.argument]
    if not names or len(names) < len(grad_input):
        return ""
    return f": its grad_input is {join_words(names, most=_MOST_ENTRIES)} of {name_node_function(placed.node)}"


def _is_whole_module(placed: PlacedSite) -> bool:
    """Whether the node's entries are the module's own, one for one."""
    _, node, call = placed
    if call is None or call.n_args != len(node.edges) or call.n_results != len(node.grad_outputs):
        return False
    inputs = [(ref.path, ref.node, ref.slot) for ref in call.inputs]
    edges = [(("args", at), edge.next_node, edge.input_nr) for at, edge in enumerate(node.edges)]
    outputs = [(ref.node, ref.slot) for ref in call.outputs]
    return inputs == edges and outputs == [(node.id, slot) for slot in range(call.n_results)]


def _list_node_reasons(subject: Subject, placed: PlacedSite) -> Iterator[str]:
    site, node, call = placed
    returned = f"the first tensor that {name_forward(call)} returned" if call else "the first tensor of the result"
    which = f" (call {call.index})" if call and len(subject.placed) > 1 else ""
    yield f"PyTorch put {name_hook_function(subject.hook)} on the grad_fn of {returned}: {escape(node.label)}{which}."
    names = [escape(gradient.argument or f"[{gradient.index}]") for gradient in site.grad_input or ()]
    shown = f" ({join_words(names)})" if names else ""
    number = count_noun(len(names), "entry", plural="entries")
    yield (
        f"grad_input has {number}, one per {describe_grad_inputs(node)}{shown}; "
        f"grad_output has {len(site.grad_output or ())}."
    )
    if call is not None:
        given = [format_argument(call.argument_names, ref.path) for ref in call.inputs]
        shown = f" ({join_words(given)})" if given else ""
        yield f"{name_forward(call)} was called with {count_noun(len(given), 'tensor')}{shown}."
    ways = list_parameter_ways(subject, site)
    yield from _locate_arguments(subject, [way for way in ways if not way.through])
    yield from _locate_parameters_behind(subject, [way for way in ways if way.through])
    yield _MODULE_PY


def _locate_arguments(subject: Subject, ways: Sequence[ParameterWay]) -> Iterator[str]:
    """The module's parameters that are arguments of the function itself."""
    if ways:
        names = join_words(quote_code(_shorten(subject, way)) for way in ways)
        verb, noun = ("is", "entry") if len(ways) == 1 else ("are", "entries")
        yield f"{names} {verb} {noun} {join_words(str(way.entry) for way in ways)}."


def _locate_parameters_behind(subject: Subject, ways: Sequence[ParameterWay]) -> Iterator[str]:
    """The module's parameters whose gradients come out further down."""
    if ways:
        more = len(ways) - _MOST_PARAMETERS
        parts = [_locate_parameter(subject, way) for way in ways[:_MOST_PARAMETERS]]
        verb = "is the gradient" if len(ways) == 1 else "are the gradients"
        yield f"Further down {verb} of {'; '.join([*parts, *([f'{more} more'] if more > 0 else [])])}."


def _locate_parameter(subject: Subject, way: ParameterWay) -> str:
    variable = subject.graph.variables_by_name.get(way.name)
    shape = f" {format_meta(variable.meta)}" if variable else ""
    near = len(way.through) <= _SHORT_WAY
    through = f" through {join_words(escape(node.label) for node in way.through)}" if near else ""
    return f"{quote_code(_shorten(subject, way))}{shape} at {escape(way.leaf.label)}{through}"


def _shorten(subject: Subject, way: ParameterWay) -> str:
    return way.name.removeprefix(f"{subject.path}.")


# FXG102

_FXG102 = Page(
    code="FXG102",
    title="The node depends on device, kernel and PyTorch version",
    what="""
    The same hook on the same module gets different gradients on the CPU and on CUDA, or after an update of PyTorch.
    """,
    why="""
    A non-full hook sits on the node of the function that made the result (FXG101), and PyTorch chooses that
    function: by device, dtype, size and the libraries that are enabled. LSTMCell is one fused function with five
    arguments on CUDA, XPU and PrivateUse1, and many elementary ones on the CPU. LSTM runs through cuDNN on CUDA
    and through oneDNN or elementary functions on the CPU.
    """,
    source="aten/src/ATen/native/RNN.cpp, and native_functions.yaml for which function belongs to which backend",
    example="""
    >>> import torch
    >>> cell = torch.nn.LSTMCell(4, 3)
    >>> hidden, state = cell(torch.ones(5, 4))
    >>> hidden.grad_fn.name()   # on CUDA: ThnnFusedLstmCellBackward0
    'MulBackward0'
    """,
    fix="""
    Use register_full_backward_hook, whose entries are the module's own arguments and results on every device. To see
    the other device, trace with device="cuda"; without CUDA, fxgrad emulates the device. On the command line, FXG102
    then names both nodes: the one on that device and the one on the CPU.
    """,
)

_EVERYWHERE = "register_full_backward_hook, whose entries are the module's own on every device"
_BACKENDS = (
    ("cudnn_", "cuDNN, on CUDA"),
    ("miopen_", "MIOpen, on ROCm"),
    ("mkldnn_", "oneDNN, on the CPU"),
    ("mps_", "MPS"),
    ("lstm_mps", "MPS"),
    ("thnn_fused_", "the fused cells of CUDA, XPU and PrivateUse1"),
    ("scaled_dot_product_flash_attention_for_cpu", "flash attention, on the CPU"),
    ("scaled_dot_product_flash_", "flash attention, on accelerators"),
    ("scaled_dot_product_efficient_", "memory-efficient attention, on accelerators"),
    ("scaled_dot_product_cudnn_", "cuDNN, on CUDA"),
)


def _explain_kernel(subject: Subject) -> Iterator[Explanation]:
    """Another device, or another kernel, gives another node."""
    if not subject.hook.kind.is_legacy:
        return
    landings = _find_other_landings(subject)
    if landings:
        yield _compare_devices(subject, *landings[0])
    elif landings is None:
        yield from _suppose_another_kernel(subject)


def _find_other_landings(subject: Subject) -> list[tuple[ModuleSite, Landing]] | None:
    """The sites that differ from those on the other device; None if no site there is known."""
    other = subject.graph.info.other_device
    by_call = {landing.call: landing for landing in other.landings} if other else {}
    pairs = [(site, by_call[site.call.id]) for site in subject.module_sites if site.call.id in by_call]
    return [(site, landing) for site, landing in pairs if _make_landing(site) != landing] if pairs else None


def _make_landing(site: ModuleSite) -> Landing:
    return Landing(site.call.id, site.node.name, len(site.node.edges), len(site.node.grad_outputs))


def _compare_devices(subject: Subject, here: ModuleSite, landing: Landing) -> Explanation:
    other = subject.graph.info.other_device
    assert other is not None
    node = here.node
    which = f" at call {here.call.index}" if len(subject.placed) > 1 else ""
    there = (
        f"On {_name_device(other)}, where fxgrad ran the same program as well, it sits on "
        f"{escape(landing.node)}{which} and gets {landing.grad_input} grad_input and {landing.grad_output} "
        f"grad_output, not {len(node.edges)} and {len(node.grad_outputs)}."
    )
    return Explanation(
        code="FXG102",
        severity="info",
        headline=f"on {_name_device(other)} this hook sits on another node, {escape(landing.node)}",
        because=f"{_describe_here(subject, node)} {there}",
        fix=_EVERYWHERE,
        site=here.site,
    )


def _suppose_another_kernel(subject: Subject) -> Iterator[Explanation]:
    """Without a comparison: only one backend has the function, or the device was emulated."""
    found = next((placed for placed in subject.placed if _depends_on_the_kernel(subject, placed.node)), None)
    if found:
        yield Explanation(
            code="FXG102",
            severity="info",
            headline="on another device this hook may sit on another node",
            because=f"{_describe_here(subject, found.node)} {_describe_elsewhere(subject, found.node)}",
            fix=_EVERYWHERE,
            site=found.site,
        )


def _depends_on_the_kernel(subject: Subject, node: Node) -> bool:
    return _find_backend(node) is not None or (subject.graph.info.emulated and node.schema is not None)


def _find_backend(node: Node) -> str | None:
    """The backend whose own function made the node; None for functions that every device has.

    Relies on aten naming such functions after the backend (aten/src/ATen/native/native_functions.yaml).
    """
    if node.schema is None:
        return None
    name = node.schema.partition("(")[0].strip().removeprefix("aten::").lstrip("_")
    return next((backend for prefix, backend in _BACKENDS if name.startswith(prefix)), None)


def _describe_here(subject: Subject, node: Node) -> str:
    info, backend = subject.graph.info, _find_backend(node)
    emulated = " (emulated)" if info.emulated else ""
    belongs = f" That function belongs to {backend}." if backend else ""
    return (
        f"On {escape(info.device)}{emulated}, {name_module(subject.path)} ran through {name_node_function(node)}, "
        f"and the hook sits on that function's node, {escape(node.label)}.{belongs}"
    )


def _describe_elsewhere(subject: Subject, node: Node) -> str:
    other = subject.graph.info.other_device
    if other is not None and other.failure is not None:
        failure = end_sentence(escape_unprintable(other.failure))
        return f"Its node on {_name_device(other)} is unknown: {failure}"
    if _find_backend(node):
        return "Elsewhere, other functions with other nodes do the same work."
    return "On another device, PyTorch may use another function and so another node."


def _name_device(other: OtherDevice) -> str:
    return "the CPU" if other.device == "cpu" else escape(other.device)


# FXG103

_FXG103 = Page(
    code="FXG103",
    title="The hooked node was made by another module",
    what="""
    A hook on a container, on an activation or on a module that returns its input unchanged gets the gradients of
    another module; or hooks on two modules always get the same gradients.
    """,
    why="""
    PyTorch registers a non-full hook on the grad_fn that the result has when forward returns (FXG101). If the module
    returns its argument unchanged (Identity, Dropout in eval mode), that node was made before the module. If it returns
    what a submodule made (Sequential), the node is the submodule's.
    """,
    source="torch/nn/modules/module.py, Module._call_impl: `grad_fn = var.grad_fn`",
    example="""
    >>> import torch
    >>> linear, identity = torch.nn.Linear(3, 2), torch.nn.Identity()
    >>> made = linear(torch.ones(4, 3))
    >>> identity(made).grad_fn is made.grad_fn
    True
    """,
    fix="""
    Use register_full_backward_hook, which adds its own nodes around the module's arguments and results. Or hook the
    module that makes the tensor.
    """,
)


def _explain_other_module(subject: Subject) -> Iterator[Explanation]:
    """The first tensor of the result was made by another module's call."""
    elsewhere = [site for site in subject.module_sites if _is_made_elsewhere(subject, site)]
    if subject.hook.kind.is_legacy and elsewhere:
        yield _name_other_module(subject, elsewhere[0])


def _is_made_elsewhere(subject: Subject, site: ModuleSite) -> bool:
    maker = subject.graph.find_maker(site.node)
    if maker is not None and subject.graph.is_within(maker.id, site.call.id):
        return maker.id != site.call.id
    return _is_earlier(site) and (maker is not None or _find_returned_argument(site) is not None)


def _is_earlier(site: ModuleSite) -> bool:
    """Whether the node was made before the call.

    The grad_fn of a view may be later: autograd recreates it when the view's base was changed.
    """
    return site.node.sequence_nr is not None and site.node.sequence_nr < site.call.sequence_window[0]


def _find_returned_argument(site: ModuleSite) -> TensorRef | None:
    """The argument that forward returned unchanged, if there is one."""
    first = site.call.legacy_tensor
    if first is None or first.node is None:
        return None
    return next((ref for ref in site.call.inputs if (ref.node, ref.slot) == (first.node, first.slot)), None)


def _name_other_module(subject: Subject, site: ModuleSite) -> Explanation:
    maker = subject.graph.find_maker(site.node)
    inside = maker is not None and subject.graph.is_within(maker.id, site.call.id)
    owner = f"{name_module(maker.path)} ({escape(maker.type_name)})" if maker else "code before the module"
    return Explanation(
        code="FXG103",
        severity="info" if inside else "warning",
        headline=f"the node belongs to {owner}, {'inside' if inside else 'not to'} {name_module(subject.path)}",
        because=f"{_describe_origin(site, owner, inside=inside)} {_MODULE_PY}",
        fix="register_full_backward_hook, which adds its own nodes around the module's arguments and results",
        site=site.site,
    )


def _describe_origin(site: ModuleSite, owner: str, *, inside: bool) -> str:
    label, forward = escape(site.node.label), name_forward(site.call)
    if inside:
        return (
            f"The first tensor that {forward} returned was made in {owner}: the hook sits on {label}, like a non-full "
            "hook on that module would, and gets only that function's gradients."
        )
    argument = _find_returned_argument(site)
    how = "made no node"
    if argument:
        name = format_argument(site.call.argument_names, argument.path)
        how = f"returned its argument {quote_code(name)} unchanged"
    return f"{forward} {how}: the first tensor of the result still has the grad_fn from {owner}, {label}."


RULES = (
    Rule(_FXG101, hook_rules=(_explain_node,)),
    Rule(_FXG102, hook_rules=(_explain_kernel,)),
    Rule(_FXG103, hook_rules=(_explain_other_module,)),
)

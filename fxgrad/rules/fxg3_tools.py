"""Tools that lose hooks: torch.fx (FXG301), TorchScript (FXG302), torch.compile (FXG303), FSDP2 (FXG304) and
torch.func (FXG305)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Explanation, FxNode, Hook, HookSite, Module, ModuleCall, NodeKind, Taken
from fxgrad.graph.lookup import keep_outermost, list_parent_paths
from fxgrad.graph.text import (
    count_noun,
    end_sentence,
    escape,
    format_ranges,
    join_words,
    name_hook_function,
    name_module,
    pluralize,
    quote_code,
)
from fxgrad.rules.data_flow import DataFlow, begin_at
from fxgrad.rules.rule import Page, Rule
from fxgrad.rules.subject import Subject

# FXG301

_FXG301 = Page(
    code="FXG301",
    title="torch.fx.symbolic_trace loses hooks, or fails",
    what="""
    After symbolic_trace, hooks on some modules are no longer called, while others are. Or it raises, for example
    "symbolically traced variables cannot be used as inputs to control flow".
    """,
    why="""
    The Tracer calls leaf modules as a whole: those of torch.nn and torch.ao.nn, except Sequential. It traces into all
    others, and into the model itself: the graph has their operations, but no call of the module. Hooks run in
    Module.__call__, so only those on leaf modules, and on modules inside them, remain. Hooks on parameters remain too:
    the parameters are the same.

    It runs forward with Proxies for arguments and parameters. They have no values, so it raises where forward needs
    one: in a condition, in float or int, or as an index. fxgrad names the line. Other uses of shapes and types in
    forward may fail as well.
    """,
    source="torch/fx/_symbolic_trace.py, Tracer.is_leaf_module and Tracer.call_module; torch/fx/proxy.py",
    example="""
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3)))
    >>> for name, module in model.named_modules():
    ...     handle = module.register_full_backward_hook(lambda *given, name=name: print(repr(name)))
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> model(x).sum().backward()
    '0.0'
    '0'
    ''
    >>> torch.fx.symbolic_trace(model)(x).sum().backward()
    '0.0'
    """,
    fix="""
    Use a Tracer whose is_leaf_module returns True for the hooked modules; register hooks of the model on the
    GraphModule. A hook that is registered on what the GraphModule holds in the place of such a module is not called
    either; a GraphModule of torch.export calls none of the model's modules. fxgrad's own trace.forward is recorded from a run, in which every hook is called.
    """,
)

_MOST_NODES = 3
_IS_LEAF_PY = "(torch/fx/_symbolic_trace.py, Tracer.is_leaf_module)"
_NEEDS_A_VALUE = {
    "__bool__": "bool",
    "__complex__": "complex",
    "__float__": "float",
    "__index__": "operator.index",
    "__int__": "int",
}
"""What no Proxy answers; ``item`` and the like are recorded (torch/fx/proxy.py)."""


def _explain_lost_hook(subject: Subject) -> Iterator[Explanation]:
    """torch.fx calls modules of torch.nn as a whole, and runs the code of all others without calling them."""
    module, hook = subject.module, subject.hook
    if module is None or not subject.firing or not hook.active or hook.registered_in is not None:
        return
    is_root = module.path == ""
    if not _is_traced_through(subject.graph, module) or (hook.kind.is_global and is_root):
        return
    if is_root:
        because = (
            "If it can trace the model, it returns a new GraphModule with the operations of the model's forward and "
            f"none of its hooks. {_IS_LEAF_PY}"
        )
        fix = "register it on the GraphModule that symbolic_trace returns"
    else:
        because = (
            f"If it can trace the model, its graph has the operations of {name_module(module.path)} "
            f"({escape(module.type_name)}) but no call of that module: only modules of torch.nn, except Sequential, "
            f"are called as a whole. {_IS_LEAF_PY}"
        )
        fix = "trace with a torch.fx.Tracer whose is_leaf_module returns True for the modules with hooks"
    yield Explanation(
        code="FXG301",
        severity="info",
        headline=f"torch.fx.symbolic_trace would lose {name_hook_function(hook)} on {name_module(module.path)}",
        because=because,
        fix=fix,
        site=subject.firing[0],
    )


def _is_traced_through(graph: BackwardGraph, module: Module) -> bool:
    """Whether fx puts the module's operations into its graph; never those of a module that it calls as a whole."""
    if module.path == "":
        return True
    around = [
        graph.modules_by_path[path] for path in list_parent_paths(module.path) if path and path in graph.modules_by_path
    ]
    return all(each.is_fx_leaf is False for each in (module, *around))


def find_tracer(subject: Subject) -> Module | None:
    """The GraphModule around a module whose graph is why the module is never called; None where there is no such one."""
    graph, module = subject.graph, subject.module
    if module is None or subject.hook.kind.is_global or graph.calls_by_path.get(module.path):
        return None
    around = (graph.modules_by_path[path] for path in list_parent_paths(module.path) if path in graph.modules_by_path)
    called = next((each for each in around if graph.calls_by_path.get(each.path)), None)
    return called if called is not None and called.made_by == "torch.fx" else None


def _explain_traced_away(subject: Subject) -> Iterator[Explanation]:
    """A GraphModule holds the module, and its graph does not call it."""
    module, tracer = subject.module, find_tracer(subject)
    if module is None or tracer is None or not subject.hook.active:
        return
    nodes = list(dict.fromkeys(_list_traced_nodes(subject.graph, module.path)))
    operations = ""
    if nodes:
        shown = [quote_code(name) for name in nodes[:_MOST_NODES]]
        if len(nodes) > _MOST_NODES:
            shown.append(count_noun(len(nodes) - _MOST_NODES, "more node"))
        operations = f" Its operations are in there by themselves: {join_words(shown)}."
    yield Explanation(
        code="FXG301",
        severity="warning",
        headline=f"{name_hook_function(subject.hook)} never fires: the graph of {name_module(tracer.path)} does not call the module",
        because=(
            f"{name_module(tracer.path)} is a GraphModule of torch.fx or torch.export: it runs its graph, which has no "
            f"call of {name_module(module.path)}.{operations} (torch/fx/graph_module.py)"
        ),
        fix=(
            "use Tensor.register_hook on the values, or hook a module that the graph calls; torch.fx keeps the calls of "
            "modules for which is_leaf_module of the Tracer returns True"
        ),
        site=subject.sites[0],
    )


def _list_traced_nodes(graph: BackwardGraph, path: str) -> Iterator[str]:
    """The nodes of a GraphModule's graph that were made of operations in a module."""
    for fx_node in graph.forward:
        inside = fx_node.traced_in
        if fx_node.graph_node is not None and inside is not None and path in (inside, *list_parent_paths(inside)):
            yield fx_node.graph_node


def _explain_failing_trace(graph: BackwardGraph) -> Iterator[Explanation]:
    """Forward needs the value of a tensor, where symbolic_trace has none."""
    asked = [
        (fx_node, taken)
        for fx_node in graph.forward
        for taken in (*fx_node.asked, *fx_node.taken)
        if taken.function in _NEEDS_A_VALUE and _is_run_by_fx(graph, taken)
    ]
    if not asked:
        return
    proxies = DataFlow(graph).find_dependents(fx_node.name for fx_node in graph.forward if _is_proxy(graph, fx_node))
    failing = [taken for fx_node, taken in asked if fx_node.name in proxies]
    if not failing:
        return
    first = failing[0]
    asks = quote_code(_NEEDS_A_VALUE[first.function])
    more = f" Forward does the same at {count_noun(len(failing) - 1, 'more place')}." if len(failing) > 1 else ""
    yield Explanation(
        code="FXG301",
        severity="info",
        headline="torch.fx.symbolic_trace would raise: forward needs the value of a tensor",
        because=(
            f"{begin_at(first.source)}, forward calls {asks} on a tensor that depends on its arguments or parameters. "
            f"symbolic_trace has a Proxy there, which has no value, and raises.{more} "
            "(torch/fx/proxy.py, Proxy.__bool__ and TracerBase.to_bool)"
        ),
        fix=(
            "compute it with torch operations (torch.where); or use fxgrad's trace.forward, which is recorded from a "
            "run"
        ),
        source=first.source,
    )


def _is_run_by_fx(graph: BackwardGraph, taken: Taken) -> bool:
    """Whether the value was asked for in the code that symbolic_trace runs: not inside a module called as a whole."""
    call = None if taken.call is None else graph.calls_by_id[taken.call]
    while call is not None and call.path:
        module = graph.modules_by_path.get(call.path)
        if module is None or module.is_fx_leaf is not False or call.parent is None:
            return False
        call = graph.calls_by_id[call.parent]
    return call is not None


def _is_proxy(graph: BackwardGraph, fx_node: FxNode) -> bool:
    """Whether symbolic_trace has a Proxy for what the recorded forward starts from: an argument or a parameter."""
    if fx_node.op == "get_attr":
        variable = graph.variables_by_name.get(fx_node.target)
        return variable is not None and variable.kind == "parameter"
    return fx_node.op == "placeholder"


# FXG302

_FXG302 = Page(
    code="FXG302",
    title="TorchScript does not support backward hooks",
    what="""
    torch.jit.trace raises "Modules that have backward hooks assigned can't be compiled"; after torch.jit.script the
    hooks are gone; "register_full_backward_hook is not supported on ScriptModules".
    """,
    why="""
    A ScriptModule runs outside Python, without Module.__call__. torch.jit.script does not copy a module's backward
    hooks; torch.jit.trace refuses modules that have backward hooks.
    """,
    source="torch/jit/_trace.py, _recursive.py (ignored_attributes) and _script.py (ScriptModule)",
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> handle = linear.register_full_backward_hook(lambda *given: print("fired"))
    >>> torch.jit.script(linear)(torch.ones(4, 3)).sum().backward()
    >>> torch.jit.trace(linear, torch.ones(4, 3))
    Traceback (most recent call last):
        ...
    ValueError: Modules that have backward hooks assigned can't be compiled: ...
    """,
    fix="""
    Hook the inputs and outputs of the ScriptModule (Tensor.register_hook), or its parameters. Scripted and traced
    modules share their parameters, with their hooks, with the module that they were made from.
    """,
)

_MOST_KINDS = 5
_SCRIPT_ERRORS = ("Modules that have backward hooks assigned can't be compiled", "is not supported on ScriptModules")


def _explain_script_modules(graph: BackwardGraph) -> Iterator[Explanation]:
    """The model holds modules that TorchScript runs."""
    told = {
        path for module in graph.modules if module.dropped for path in (module.path, *list_parent_paths(module.path))
    }
    outermost = keep_outermost(module.path for module in graph.modules if module.made_by == "torch.jit")
    scripted = [path for path in outermost if path not in told]
    if scripted:
        runs = pluralize(len(scripted), "runs", plural="run")
        yield Explanation(
            code="FXG302",
            severity="info",
            headline=f"{join_words(map(name_module, scripted))} {runs} in TorchScript, without hooks",
            because=(
                "Backward hooks that it had when it was scripted were silently dropped. A ScriptModule accepts none, "
                "and with a global backward hook every call of one raises. (torch/jit/_script.py, "
                "torch/jit/_recursive.py)"
            ),
            fix=(
                "use Tensor.register_hook on its inputs, outputs and parameters, or use the module without TorchScript"
            ),
            owner=scripted[0],
        )


def _explain_dropped_hooks(graph: BackwardGraph) -> Iterator[Explanation]:
    """Modules were scripted that had backward hooks."""
    for module in graph.modules:
        if module.dropped:
            hooks = join_words(quote_code(function) for function in module.dropped)
            is_or_are = pluralize(len(module.dropped), "is", plural="are")
            yield Explanation(
                code="FXG302",
                severity="warning",
                headline=f"{hooks} {is_or_are} not in the TorchScript of {name_module(module.path)}",
                because=(
                    "torch.jit.script leaves out the backward hooks of the modules that it compiles: only the module that "
                    "was scripted has them. (torch/jit/_recursive.py, ignored_attributes)"
                ),
                fix=(
                    "use Tensor.register_hook on its inputs, outputs and parameters, or use the module without "
                    "TorchScript"
                ),
                owner=module.path,
            )


def _explain_joined_nodes(graph: BackwardGraph) -> Iterator[Explanation]:
    """TorchScript has put several operators behind one node."""
    joined = [node for node in graph.nodes if node.kind is NodeKind.SCRIPTED]
    if not joined:
        return
    kinds = Counter(operator.kind for node in joined if node.script is not None for operator in node.script.inside)
    inside = ", ".join(f"{count} {escape(kind)}" for kind, count in kinds.most_common(_MOST_KINDS))
    more = f" and {len(kinds) - _MOST_KINDS} more kinds" if len(kinds) > _MOST_KINDS else ""
    labels = join_words(escape(node.label) for node in joined[:_MOST_KINDS])
    others = f" and {len(joined) - _MOST_KINDS} more" if len(joined) > _MOST_KINDS else ""
    yield Explanation(
        code="FXG302",
        severity="info",
        headline=f"TorchScript has optimized what is behind {labels}{others}: no node is there for each operator",
        because=(
            f"TorchScript optimizes what it has run before{f'; inside are {inside}{more}' if kinds else ''}. The node decides "
            "by itself what it returns. (torch/csrc/jit/runtime/graph_executor.cpp)"
        ),
        fix=(
            "to see each operator's node, call torch.jit.set_fusion_strategy([]) before the script is made or loaded, or trace "
            "it before it has run"
        ),
    )


def _explain_script_error(message: str) -> Explanation | None:
    """Explain the errors of TorchScript about backward hooks; None for any other message."""
    if not any(text in message for text in _SCRIPT_ERRORS):
        return None
    return Explanation(
        code="FXG302",
        severity="error",
        headline="TorchScript does not support backward hooks",
        because=(
            "torch.jit.trace refuses modules that have backward hooks, torch.jit.script drops them, a ScriptModule "
            "accepts none, and with a global one every call of a ScriptModule raises. (torch/jit/_trace.py, "
            "torch/jit/_script.py)"
        ),
        fix="remove the hooks first, and use Tensor.register_hook on inputs and outputs",
    )


# FXG303

_FXG303 = Page(
    code="FXG303",
    title="torch.compile may skip hooks",
    what="""
    A hook on a module inside a compiled one is not called; or it makes the compiled model slow.
    """,
    why="""
    Dynamo looks for hooks when it compiles, at the first call. At a module with hooks, it breaks the graph and runs
    that part eagerly. It does not look again: a hook that is registered later on an inner module is not called. Hooks
    on the compiled module itself, on tensors outside and on parameters are always called.
    """,
    source="torch/_dynamo/config.py, skip_nnmodule_hook_guards",
    example="""
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    >>> compiled = torch.compile(model, backend="aot_eager")
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> output = compiled(x)
    >>> handle = model[0].register_full_backward_hook(lambda *given: print("fired"))
    >>> compiled(x).sum().backward()
    >>> torch._dynamo.reset()
    >>> compiled(x).sum().backward()
    fired
    """,
    fix="""
    Register hooks before the first call, or reset Dynamo after registering (torch._dynamo.reset()). To look at
    gradients, use the uncompiled model, as fxgrad does.
    """,
)


_ADVICE_ON_LATE_HOOKS = "register it before the first call, or call torch._dynamo.reset() after registering it"


def _explain_compiled_module(subject: Subject) -> Iterator[Explanation]:
    """The hook is on a module that compiled code calls, and was or may have been registered after that was compiled."""
    module, hook = subject.module, subject.hook
    if module is None or not hook.active:
        return
    passed = _find_passed_by(subject)
    if passed is not None:
        yield passed
    if hook.registered is not None or hook.kind.is_global:
        return
    region = next((path for path in subject.facts.compiled if _is_compiled_in(subject.graph, module, path)), None)
    if region is not None:
        yield Explanation(
            code="FXG303",
            severity="info",
            headline=f"torch.compile calls {name_hook_function(subject.hook)} only if it was registered before the first call",
            because=(
                f"{name_module(module.path)} is inside {name_module(region)}, which is compiled; for this trace it ran "
                "eagerly. If a hook exists when a region is compiled, Dynamo breaks the graph around it; it does not "
                "look for hooks that are registered after the first call. (torch/_dynamo/config.py, "
                "skip_nnmodule_hook_guards)"
            ),
            fix=_ADVICE_ON_LATE_HOOKS,
            site=subject.sites[0],
        )


def _find_passed_by(subject: Subject) -> Explanation | None:
    """The finding about a hook that was registered after Dynamo had compiled what calls its module; None for others."""
    for site in subject.sites:
        call = None if site.call is None else subject.graph.calls_by_id[site.call]
        passed = None if call is None else call.find_compiled_before(subject.hook)
        if call is not None and passed is not None and passed.certain:
            function = quote_code(passed.function)
            return Explanation(
                code="FXG303",
                severity="warning",
                headline=(
                    f"torch.compile may pass {name_hook_function(subject.hook)} by: it compiled {function} before the "
                    "hook was registered"
                ),
                because=(
                    f"{name_module(call.path)} is called while {function} runs. Dynamo looks for hooks when it compiles, and "
                    "its guards do not look at them: it runs what it has compiled, without the hook, until another guard "
                    "makes it compile anew. This trace ran without torch.compile. (torch/_dynamo/config.py, "
                    "skip_nnmodule_hook_guards)"
                ),
                fix=_ADVICE_ON_LATE_HOOKS,
                site=site,
                source=subject.hook.registered,
            )
    return None


def _is_compiled_in(graph: BackwardGraph, module: Module, region: str) -> bool:
    wrapped = graph.modules_by_path[region].wraps
    return (region if wrapped is None else wrapped) in list_parent_paths(module.path)


def _explain_compiled_regions(graph: BackwardGraph) -> Iterator[Explanation]:
    """The graph has nodes that stand for whole regions of the program."""
    regions = [node for node in graph.nodes if node.kind is NodeKind.COMPILED]
    if regions:
        nodes, are = count_noun(len(regions), "node"), pluralize(len(regions), "is", plural="are")
        labels = join_words(quote_code(node.label) for node in regions)
        yield Explanation(
            code="FXG303",
            severity="info",
            headline=f"{nodes} of the graph {are} made by torch.compile",
            because=(
                f"{labels}: operations inside have no nodes of their own, so hooks on modules or tensors in there have "
                "none to sit on. A module hook that was registered after the first call is not called. "
                "(torch/_dynamo/config.py, skip_nnmodule_hook_guards)"
            ),
            fix="trace the model itself (fxgrad.trace), which runs it eagerly; or register hooks before the first call",
        )


# FXG304

_FXG304 = Page(
    code="FXG304",
    title="fully_shard loses hooks on parameters",
    what="""
    After fully_shard (FSDP2), hooks on parameters are not called, although the parameters get gradients. There is no
    error.
    """,
    why="""
    fully_shard replaces each parameter by a sharded one, a DTensor. Hooks that were registered on the parameter before
    stay with the old one, which the model no longer holds.

    Forward does not use the sharded parameter either: FSDP gathers an unsharded one from all processes, and that is the
    leaf of the graph. So a tensor hook on the sharded parameter is not called. FSDP reduces the gradient of the
    unsharded parameter, writes its shard into .grad of the sharded one, and then calls the post-accumulate hooks of
    that itself; not in a backward for which set_requires_gradient_sync(False) or set_requires_all_reduce(False) has
    turned the reduction off. Hooks on modules are called as without FSDP.
    """,
    source="torch/distributed/fsdp/_fully_shard/_fsdp_param.py and _fsdp_collectives.py, foreach_reduce",
    example="""
    >>> import torch
    >>> import torch.distributed as dist
    >>> from torch.distributed.fsdp import fully_shard
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = torch.nn.Linear(3, 2)
    >>> handle = model.weight.register_post_accumulate_grad_hook(lambda weight: print("before"))
    >>> model = fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    >>> handle = model.weight.register_hook(lambda grad: print("tensor hook"))
    >>> handle = model.weight.register_post_accumulate_grad_hook(lambda weight: print("after"))
    >>> model(torch.ones(4, 3)).sum().backward()
    after
    >>> dist.destroy_process_group()
    """,
    fix="""
    Register after fully_shard, with register_post_accumulate_grad_hook. The hook receives the sharded parameter; its
    .grad is a DTensor with the reduced gradient.
    """,
)

_FSDP_PY = "(torch/distributed/fsdp/_fully_shard/, _fsdp_param.py and _fsdp_collectives.py)"


def is_lost_by_sharding(hook: Hook) -> bool:
    """Whether ``fully_shard`` is why a hook on a parameter is not called."""
    sharding = hook.sharding
    if sharding is None or not hook.active or hook.observed is not None:
        return False
    return sharding.is_replaced or (
        sharding.leaf is not None and (not hook.is_called_by_fsdp or bool(sharding.refusal))
    )


def _explain_sharded_parameter(subject: Subject) -> Iterator[Explanation]:
    """The hook is on a parameter that forward does not use, as ``fully_shard`` has put another in its place."""
    hook, sharding = subject.hook, subject.hook.sharding
    site = subject.sites[0]
    if sharding is None or not is_lost_by_sharding(hook) or site.fires is not False:
        return
    name = quote_code(sharding.parameter)
    cause = "backward does not reach the sharded parameter"
    if sharding.is_replaced:
        cause = "fully_shard has replaced the parameter"
        because = (
            f"It was registered before fully_shard, which replaced {name} by a sharded parameter. The model no longer "
            f"holds the one with the hook. {_FSDP_PY}"
        )
        fix = "register it after fully_shard, with register_post_accumulate_grad_hook"
    elif hook.is_called_by_fsdp:
        cause = "FSDP does not reduce the gradient"
        because, fix = (
            f"{end_sentence(site.reason)} {_FSDP_PY}",
            "turn the reduction on before the backward that it is for",
        )
    else:
        because = (
            f"It is a tensor hook on the sharded {name}. Forward uses the unsharded parameter that FSDP gathers, and "
            f"backward does not reach the sharded one. {_FSDP_PY}"
        )
        fix = (
            "register it with register_post_accumulate_grad_hook: FSDP calls that once it has reduced the gradient, and "
            f"{name}.grad is the shard of it"
        )
    yield Explanation(
        code="FXG304",
        severity="warning",
        headline=f"{name_hook_function(hook)} never fires: {cause}",
        because=because,
        fix=fix,
        site=site,
        source=hook.registered,
    )


# FXG305

_FXG305 = Page(
    code="FXG305",
    title="Transforms of torch.func keep hooks inside",
    what="""
    A module is called inside vmap, grad, vjp, jvp, jacrev, jacfwd or hessian, and backward does not call its hooks; or a
    call with a full hook raises "In order to use an autograd.Function with functorch transforms".
    """,
    why="""
    Inside a transform, tensors are wrappers. In vmap and jvp a wrapper's requires_grad is False, although gradients flow
    through what it wraps, so PyTorch finds nothing to put a hook on; and requires_grad_() does not change that. grad and
    vjp, which jacrev and hessian use, run a backward of their own: it calls hooks of tensors inside, and of
    register_backward_hook, with wrappers. Your backward calls none of these.

    A full hook puts a BackwardHookFunction on what goes into a module and comes out of it. It has no setup_context, which
    grad and vjp need, nor jvp, which forward-mode AD needs; so there the call raises.

    Hooks on parameters are called as without a transform, if the transform gets the parameters themselves.
    functional_call alone is no transform.
    """,
    source=(
        "torch/_functorch/eager_transforms.py and vmap.py; torch/autograd/function.py, Function.apply; "
        "aten/src/ATen/functorch/"
    ),
    example="""
    >>> import torch
    >>> linear = torch.nn.Linear(3, 2)
    >>> handle = linear.register_full_backward_hook(lambda *given: print("module hook"))
    >>> handle = linear.weight.register_hook(lambda grad: print("tensor hook"))
    >>> x = torch.ones(4, 3, requires_grad=True)
    >>> torch.func.vmap(linear)(x).sum().backward()
    tensor hook
    >>> linear(x).sum().backward()
    tensor hook
    module hook
    """,
    fix="""
    Hook what is outside of the transform: the tensors that it gets and returns, the module that calls it, or the
    parameters. Remove full hooks before a transform that refuses them.
    """,
)

_FUNCTORCH_PY = "(torch/_functorch/, eager_transforms.py and vmap.py)"
_REFUSED_BY_FUNC = "In order to use an autograd.Function with functorch transforms"
_REFUSED_BY_FORWARD_AD = "You must implement the jvp function for custom autograd.Function"
_OUTSIDE = "hook what is outside of the transform: the tensors that it gets and returns, or the parameters"


def find_transformed_call(subject: Subject, site: HookSite) -> ModuleCall | None:
    """The module call inside a transform of torch.func that is why a module hook is on no node of the graph."""
    call = subject.call(site)
    if call is None or site.fires is not False or site.node is not None or not (call.grad_enabled and call.completed):
        return None
    runs_its_own = call.transforms[-1:] == ("grad",)
    return call if call.transforms and (runs_its_own or not any(ref.requires_grad for ref in call.outputs)) else None


def _explain_transformed_calls(subject: Subject) -> Iterator[Explanation]:
    """Calls inside a transform of torch.func: what captured the hook there is not in the graph."""
    pairs = [(site, find_transformed_call(subject, site)) for site in subject.sites]
    found = [(site, call) for site, call in pairs if call is not None]
    if not found:
        return
    site, call = found[0]
    transform = call.transforms[-1]
    some = len(found) < len(subject.sites)
    indices = [call.index for _, call in found]
    which = f" for {pluralize(len(found), 'call')} {format_ranges(indices)} of {len(subject.calls)}" if some else ""
    yield Explanation(
        code="FXG305",
        severity="warning",
        headline=(
            f"backward does not call {name_hook_function(subject.hook)}{which}: the module is called inside a transform of "
            f"torch.func ({escape(transform)})"
        ),
        because=f"{_WHY_LOST_IN.get(transform, _WHY_LOST_IN['vmap'])} {_FUNCTORCH_PY}",
        fix=_OUTSIDE,
        site=site,
        source=subject.hook.registered or call.source,
    )


_WHY_LOST_IN = {
    "vmap": (
        "Inside it a tensor is a wrapper whose requires_grad is False, although gradients may flow through what it wraps, "
        "so PyTorch finds nothing to put the hook on."
    ),
    "grad": (
        "grad and vjp, which jacrev and hessian use, run a backward of their own on wrapped tensors. Only that can reach "
        "the hook."
    ),
}


def _explain_transform_error(message: str) -> Explanation | None:
    """Explain what a call with a full hook raises inside of a transform, as a custom Function does; None for others."""
    if not message.startswith((_REFUSED_BY_FUNC, _REFUSED_BY_FORWARD_AD)):
        return None
    lacks = "setup_context" if message.startswith(_REFUSED_BY_FUNC) else "jvp"
    return Explanation(
        code="FXG305",
        severity="error",
        headline="a full backward hook, or a custom Function, inside a transform that refuses it",
        because=(
            "A full hook puts a BackwardHookFunction on what goes into a module and comes out of it. That has no "
            f"{lacks}, which this transform of torch.func or forward-mode AD needs; a Function of yours may lack it as well. "
            "(torch/nn/modules/_functions.py; torch/autograd/function.py)"
        ),
        fix=f"remove the full hooks of the module: {_OUTSIDE}. For a Function of yours, write {lacks}",
    )


RULES = (
    Rule(_FXG301, hook_rules=(_explain_lost_hook, _explain_traced_away), graph_rules=(_explain_failing_trace,)),
    Rule(
        _FXG302,
        graph_rules=(_explain_dropped_hooks, _explain_script_modules, _explain_joined_nodes),
        error_rules=(_explain_script_error,),
    ),
    Rule(_FXG303, hook_rules=(_explain_compiled_module,), graph_rules=(_explain_compiled_regions,)),
    Rule(_FXG304, hook_rules=(_explain_sharded_parameter,)),
    Rule(_FXG305, hook_rules=(_explain_transformed_calls,), error_rules=(_explain_transform_error,)),
)

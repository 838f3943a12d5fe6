"""What torch.fx.symbolic_trace would do with the model: FXG301."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Explanation, FxNode, Module, Taken
from fxgrad.graph.lookup import list_parent_paths
from fxgrad.graph.text import count_noun, escape, name_hook_function, name_module, quote_code
from fxgrad.rules.data_flow import DataFlow
from fxgrad.rules.operations import place
from fxgrad.rules.subject import Subject

_NEEDS_A_VALUE = {
    "__bool__": "bool",
    "__complex__": "complex",
    "__float__": "float",
    "__index__": "operator.index",
    "__int__": "int",
}
"""What no Proxy answers; ``item`` and the like are recorded (torch/fx/proxy.py)."""


def symbolic_trace_loses_the_hook(subject: Subject) -> Iterator[Explanation]:
    """FXG301: torch.fx calls modules of torch.nn as a whole, and runs the code of all others without calling them."""
    module, hook = subject.module, subject.hook
    if module is None or not subject.firing or not hook.active or hook.registered_in is not None:
        return
    if _is_traced_through(subject.graph, module) and not (hook.kind.is_global and module.path == ""):
        yield Explanation(
            code="FXG301",
            severity="info",
            headline=f"torch.fx.symbolic_trace would lose {name_hook_function(hook)} on {name_module(module.path)}",
            because=_traced_through(module),
            fix=_kept_by(module),
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


def _traced_through(module: Module) -> str:
    rule = "(torch/fx/_symbolic_trace.py, Tracer.is_leaf_module)"
    if module.path == "":
        return (
            "Where it can trace the model, it returns a new GraphModule, which has the operations of the model's forward "
            f"and none of its hooks. {rule}"
        )
    return (
        f"Where it can trace the model, its graph has the operations of {name_module(module.path)} "
        f"({escape(module.type_name)}) and no call of that module: only modules of torch.nn, Sequential excepted, are "
        f"called as a whole. {rule}"
    )


def _kept_by(module: Module) -> str:
    if module.path == "":
        return "register it on the GraphModule that symbolic_trace returns"
    return "trace with a torch.fx.Tracer whose is_leaf_module answers True for the modules with hooks"


def symbolic_trace_fails(graph: BackwardGraph) -> Iterator[Explanation]:
    """FXG301: forward asks for the value of a tensor, where symbolic_trace has none."""
    asked = [(fx_node, taken) for fx_node in graph.forward for taken in (*fx_node.asked, *fx_node.taken)]
    asked = [
        (fx_node, taken) for fx_node, taken in asked if taken.function in _NEEDS_A_VALUE and _is_run_by_fx(graph, taken)
    ]
    if not asked:
        return
    proxies = DataFlow(graph).depending_on(fx_node.name for fx_node in graph.forward if _is_proxy(graph, fx_node))
    failing = [taken for fx_node, taken in asked if fx_node.name in proxies]
    if failing:
        yield _fails(failing)


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


def _fails(failing: list[Taken]) -> Explanation:
    first = failing[0]
    asks = _NEEDS_A_VALUE[first.function]
    more = f" So it does at {count_noun(len(failing) - 1, 'more place')}." if len(failing) > 1 else ""
    return Explanation(
        code="FXG301",
        severity="info",
        headline="torch.fx.symbolic_trace would raise: forward asks for the value of a tensor",
        because=(
            f"{place(first.source)}, forward calls {quote_code(asks)} on a tensor that depends on its arguments or parameters. "
            f"symbolic_trace has a Proxy there, which has no value, and raises where it comes to that.{more} "
            "(torch/fx/proxy.py, Proxy.__bool__ and TracerBase.to_bool)"
        ),
        fix="compute it with torch operations (torch.where); or use fxgrad's trace.forward, which is recorded from a run",
        source=first.source,
    )

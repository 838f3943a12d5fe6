"""Which node of a GraphModule's own graph a recorded call is, where a model was traced by torch.fx or torch.export.

A GraphModule runs Python code that PyTorch generates from its graph, a line for each node. So the line that a call came
from tells the node. That holds only while the graph is the one that the code was generated from: where somebody has
edited it since, without ``recompile()``, nothing is said.

Sources relied on: torch/fx/graph_module.py (``recompile``; ``_EvalCacheLoader`` keeps the source for linecache),
torch/fx/graph.py (``_gen_python_code``: ``_lineno_map`` counts lines from the ``def`` on), torch/fx/proxy.py
(``stack_trace`` and ``nn_module_stack`` in a node's ``meta``), torch/export/_trace.py.
"""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from torch import fx, nn

from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent, OpEvent
from fxgrad.observe.record.frames import Frame, find_line, is_generated, note_generated, read_lines
from fxgrad.observe.record.fx_operations import find_operation, is_literal
from fxgrad.observe.record.recorder import Recorder

_REPEATED_CALL = re.compile(r"@\d+$")
"""At the end of a path in a second call's nn_module_stack (torch/fx/_symbolic_trace.py and torch/export)."""


class GraphNode(NamedTuple):
    """A node of a GraphModule's graph, and the call of that GraphModule; None where ``forward`` was called itself."""

    node: fx.Node
    call: ModuleEvent | None


class GraphModules:
    """The GraphModules of a recorded run.

    ``nodes``  by the number of a recorded function call, the node that it is, or that it is a part of
    ``names``  by the number of a recorded function call, the name of the node whose value it made
    ``members``  by the number of such a call and a key, the name of the node that gets one of its results by that key
    ``attributes``  by the path of a parameter or buffer, the name of the node that gets it
    ``reserved``  the names of the nodes that compute something
    """

    def __init__(self, paths: Mapping[str, nn.Module], recorder: Recorder) -> None:
        self.nodes: dict[int, GraphNode] = {}
        self.names: dict[int, str] = {}
        self.members: dict[tuple[int, Any], str] = {}
        self.attributes: dict[str, str] = {}
        self.reserved: set[str] = set()
        self._lines: dict[int, dict[int, fx.Node]] = {}
        self._codes: list[CodeType] = []  # held, so that their ids stay their own
        for path, module in paths.items():
            if is_a(module, fx.GraphModule):
                self._add(path, module)
        if self._lines:
            self._find_nodes(recorder)

    def _add(self, path: str, module: fx.GraphModule) -> None:
        code = find_generated_code(module)
        if code is None or id(code) in self._lines:
            return
        nodes = _read_nodes(module, code)
        self._codes.append(code)
        self._lines[id(code)] = nodes
        note_generated(code.co_filename, {line: _read_trace(node) for line, node in nodes.items()})
        prefix = f"{path}." if path else ""
        own = [node for node in nodes.values() if node.op == "get_attr"]
        self.attributes |= {f"{prefix}{node.target}": node.name for node in own}
        self.reserved |= {node.name for node in nodes.values() if node.op.startswith("call_")}

    def _find_nodes(self, recorder: Recorder) -> None:
        makers: dict[tuple[ModuleEvent | None, fx.Node], list[int]] = defaultdict(list)
        for number, event in enumerate(recorder.function_calls):
            found = self._find_node(event)
            if found is not None:
                self.nodes[number] = found
                if _is_node_itself(event, found):
                    makers[found.call, found.node].append(number)
        for call in recorder.module_calls:
            found = self._find_called(call)
            if found is not None and call.completed:
                makers[found.call, found.node] += sorted({seen.producer[0] for seen in call.outputs if seen.producer})
        for (_, node), numbers in makers.items():
            if len(numbers) == 1 and numbers[0] in self.nodes and self.nodes[numbers[0]].node is node:
                self._name(numbers[0], node)

    def _name(self, number: int, node: fx.Node) -> None:
        self.names[number] = node.name
        for user in node.users:
            if user.target is operator.getitem and user.args[0] is node and is_literal(user.args[1]):
                self.members.setdefault((number, user.args[1]), user.name)

    def _find_node(self, event: OpEvent) -> GraphNode | None:
        """The node that the innermost GraphModule was running."""
        return self._find_in(event.stack.frames, event.module_call)

    def _find_called(self, call: ModuleEvent) -> GraphNode | None:
        """The node that calls a module, and gives what this returned."""
        found = self._find_in(call.stack.frames[:1], call.parent)
        is_its_call = found is not None and found.call is call.parent and found.node.op == "call_module"
        return found if is_its_call else None

    def _find_in(self, frames: Sequence[Frame], call: ModuleEvent | None) -> GraphNode | None:
        for code, instruction in frames:
            if id(code) in self._lines:
                node = self._lines[id(code)].get(find_line(code, instruction))
                while call is not None and find_generated_code(call.module) is not code:
                    call = call.parent
                return None if node is None else GraphNode(node, call)
        return None

    def find_module_path(self, number: int, path_of: Callable[[nn.Module], str]) -> str | None:
        """In which module of the program that was traced the operation was, by the names of the model.

        None where that is not known, and of an operation inside of a module that the graph calls.
        """
        found = self.nodes.get(number)
        if found is None or found.call is None or found.node.op == "call_module":
            return None
        stack = found.node.meta.get("nn_module_stack")
        if not is_a(stack, dict) or not stack:
            return None
        entry = [*stack.values()][-1]  # (path, class) or, from torch.export, (path, name of the class)
        if not is_a(entry, tuple) or not entry or not is_a(entry[0], str):
            return None
        return ".".join(filter(None, (path_of(found.call.module), _REPEATED_CALL.sub("", entry[0]))))


def find_generated_code(module: nn.Module) -> CodeType | None:
    """The code that PyTorch has generated for a GraphModule; None for what runs a forward of the user's."""
    forward = vars(type(module)).get("forward") if is_a(module, fx.GraphModule) else None
    if not is_a(forward, FunctionType) or not is_generated(forward.__code__.co_filename):
        return None
    code: CodeType = forward.__code__
    return code


def _read_nodes(module: fx.GraphModule, code: CodeType) -> dict[int, fx.Node]:
    """The node of each line; none if the graph is not that which the code was generated from."""
    try:
        generated = module.graph.python_code("self")
        lines, nodes = generated._lineno_map or {}, [*module.graph.nodes]
    except Exception:  # a CodeGen or an argument of the user's
        return {}
    source = read_lines(code.co_filename)
    if generated.src.splitlines() != "".join(source).splitlines():
        return {}
    found: dict[int, fx.Node] = {}
    for offset, position in lines.items():
        line = code.co_firstlineno + offset
        if position is not None and position < len(nodes) and line <= len(source):
            text, name = source[line - 1].strip(), nodes[position].name
            # "name = …", "name : type = …", and of what is changed in place "x += 1;  name = x"
            if text.startswith(f"{name} ") or f";  {name} " in text:
                found[line] = nodes[position]
    return found


def _read_trace(node: fx.Node) -> str:
    trace = node.meta.get("stack_trace")
    return trace if is_a(trace, str) else ""


def _is_node_itself(event: OpEvent, found: GraphNode) -> bool:
    """Whether a recorded call is what the node calls, not a part of it."""
    if event.module_call is not found.call or not is_generated(event.stack.frames[0][0].co_filename):
        return False
    if getattr(found.node.target, "__module__", None) == "_operator":
        return True  # `x + 1` calls Tensor.add, `1 - x` Tensor.__rsub__
    op, target, *_ = find_operation(event)
    return op == found.node.op and bool(target is found.node.target or target == found.node.target)

"""Where each node comes from: the module call and the function call that made it.

Sequence numbers count, per thread, the nodes that were made (torch/csrc/autograd/function.h), so the numbers before and
after a call bound what the call made. Numbers of other threads mean nothing here, and nodes do not say which thread made
them; so a node is a function's only if the function's results lead to it, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import fx
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Source
from fxgrad.graph.records import ScriptOperator
from fxgrad.observe.autograd.argument_names import find_signature
from fxgrad.observe.autograd.node_types import DIFFERENTIABLE_GRAPH
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, NO_SEQUENCE_NR, WalkedGraph, name_of, sequence_nr_of
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent, OpEvent, TensorSnapshot
from fxgrad.observe.record.frames import find_stack_source, is_users_file, make_script_source
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.scripts import FoundOperator

LEAF = "a leaf's node: made once, shared by every call that uses it"
EARLIER = "made before the forward that was recorded"
LATER = "made after the forward that was recorded"
ELSEWHERE = "made before the forward that was recorded, in another thread, or by what cannot be recorded"
IN_LOSS = "made by the loss function, after the model's forward"
NO_CALL = "made outside of any module call"
OTHER_THREAD = "made by no recorded function call; other threads, which number nodes separately, may have run meanwhile"
OUTSIDE = "made by no recorded function call"
HOOK_FUNCTION = "added by PyTorch for a full module hook; it is not an operation of forward"
CHECKPOINT = "a reentrant checkpoint: the operations inside are recorded one by one"
NO_NUMBER = "the node has no sequence number"


class Provenance(NamedTuple):
    """Where a node comes from, as the recorded forward knows it; ``script`` as in `Node`."""

    call: str | None = None
    call_reason: str | None = None
    fx_node: str | None = None
    fx_reason: str | None = None
    source: Source | None = None
    script: ScriptOperator | None = None


class Ownership:
    """Which function call made each node, and which nodes the recorded run did not make.

    ``upstream`` are the nodes behind the tensors that came from elsewhere: inputs with a history, tensors that were
    made before or in other threads, and `roots` that no recorded call has seen. ``earlier`` are those of them that were
    there before the run, for certain. ``added`` are nodes that PyTorch made in this thread around what was called: of full
    hooks, and of reentrant checkpoints.
    """

    def __init__(self, recorder: Recorder, roots: Iterable[AutogradNode] = ()) -> None:
        self._calls = recorder.function_calls
        self.owner: dict[AutogradNode, int] = {}
        self.earlier = _list_nodes(recorder.log.inputs)
        self.upstream = self.earlier | _list_nodes(recorder.log.foreign)
        hook_nodes = [node for call in recorder.module_calls for node in (call.input_hook_node, call.output_hook_node)]
        self.added = {
            node for node in (*hook_nodes, *(nesting.node for nesting in recorder.ops.nesting)) if node is not None
        }
        for number, seen in enumerate(self._calls):
            self._own(number, seen)
        self.earlier |= {node for node in roots if node not in self.owner and sequence_nr_of(node) < recorder.started}
        self._add_behind(self.earlier)
        self._add_behind(self.upstream)
        self.upstream |= self.earlier

    def _own(self, number: int, seen: OpEvent) -> None:
        start, end = seen.window
        for node in seen.nodes:  # one that takes no number is that of the first call that returned it
            if (
                sequence_nr_of(node) == NO_SEQUENCE_NR
                and name_of(node) != ACCUMULATE_GRAD
                and node not in self.upstream
            ):
                self.owner.setdefault(node, number)
        stack = list(seen.nodes)
        while stack:
            node = stack.pop()
            if node in self.owner or node in self.upstream or not start <= sequence_nr_of(node) < end:
                continue
            self.owner[node] = number
            if end - start > 1:
                stack.extend([next_node for next_node, _ in node.next_functions if next_node is not None])

    def _add_behind(self, nodes: set[AutogradNode]) -> None:
        stack = list(nodes)
        while stack:
            for node, _ in stack.pop().next_functions:
                if node is not None and node not in nodes and node not in self.owner:
                    nodes.add(node)
                    stack.append(node)


def _list_nodes(tensors: Iterable[TensorSnapshot]) -> set[AutogradNode]:
    origins = []
    for seen in tensors:
        seen.settle()
        origins.append(seen.origin)
    return {origin[0] for origin in origins if origin is not None}


class Timeline:
    """Looks up what made each node of a walked graph."""

    def __init__(
        self,
        walked: WalkedGraph,
        recorder: Recorder,
        ownership: Ownership,
        call_ids: Mapping[ModuleEvent, str],
        fx_nodes: Mapping[int, fx.Node],
    ) -> None:
        self._walked = walked
        self._recorder = recorder
        self._ownership = ownership
        self._call_ids = call_ids
        self._fx_nodes = fx_nodes
        self._starts = [call.start for call in recorder.module_calls]
        self._function_starts = [seen.window[0] for seen in recorder.function_calls]

    def find_provenance(self, number: int) -> Provenance:
        """Module call, fx node and source line of one node; where one is missing, why."""
        place = self._walked.places[number]
        name, sequence_nr = self._walked.all_names[place], self._walked.sequence_nrs[place]
        if name == ACCUMULATE_GRAD:
            return _LEAF
        node = self._walked.nodes[place]
        if sequence_nr is None:
            owner = self._ownership.owner.get(node)
            return _WITHOUT_NUMBER if owner is None else self._make_provenance_of_result(owner)
        owner = self._ownership.owner.get(node)
        if owner is None and self._explain_outside(node, sequence_nr) is None:
            owner = self._find_function_call(sequence_nr)
        if owner is None:
            return self._make_provenance_without_function(node, name, sequence_nr)
        seen, fx_node = self._recorder.function_calls[owner], self._fx_nodes.get(owner)
        call = self.find_module_call(sequence_nr)
        script, source = self._find_script(seen, name, sequence_nr)
        return Provenance(
            None if call is None else self._call_ids[call],
            None if call is not None else IN_LOSS if seen.in_loss else NO_CALL,
            None if fx_node is None else fx_node.name,
            None if fx_node is not None else _explain_no_fx_node(name, seen),
            source or find_stack_source(seen.stack),
            script,
        )

    def _make_provenance_of_result(self, owner: int) -> Provenance:
        """Of a node that takes no number: what returned its tensor."""
        seen, fx_node = self._recorder.function_calls[owner], self._fx_nodes.get(owner)
        return Provenance(
            None if seen.module_call is None else self._call_ids[seen.module_call],
            None if seen.module_call is not None else IN_LOSS if seen.in_loss else NO_CALL,
            None if fx_node is None else fx_node.name,
            None if fx_node is not None else OUTSIDE,
            find_stack_source(seen.stack),
        )

    def _find_script(self, seen: OpEvent, name: str, sequence_nr: int) -> tuple[ScriptOperator | None, Source | None]:
        """The operator of a script that made a node, and the innermost of the user's lines that led to it."""
        if seen.script is None:
            return None, None
        inside = seen.script.find_inside(sequence_nr)
        if inside and name.endswith(DIFFERENTIABLE_GRAPH):
            operators = [self._make_operator(found, seen)[0] for found in inside]
            return ScriptOperator("prim::DifferentiableGraph", None, None, tuple(operators)), None
        signature = find_signature(name)
        found = None if signature is None else seen.script.find(sequence_nr, signature.function)
        return (None, None) if found is None else self._make_operator(found, seen)

    def _make_operator(self, found: FoundOperator, seen: OpEvent) -> tuple[ScriptOperator, Source | None]:
        path, call = found.path, seen.module_call
        module = None  # the method was called without its module, or it is a function
        if path is not None and call is not None and is_a(call.module, torch.jit.ScriptModule):
            outer = self._call_ids[call].rpartition("#")[0]
            module = ".".join([outer, *path] if outer else path)
        sources = [make_script_source(*line) for line in found.lines]
        users = [source for source, line in zip(sources, found.lines, strict=True) if is_users_file(line.file)]
        return ScriptOperator(found.kind, module, next(iter(sources), None)), next(iter(users), None)

    def _find_function_call(self, sequence_nr: int) -> int | None:
        """The function call that was running: its results need not lead to what it made, as to a dual tensor's tangent.
        Only where no other thread ran, whose numbers could be the same."""
        position = bisect_right(self._function_starts, sequence_nr) - 1
        if position < 0 or sequence_nr >= self._recorder.function_calls[position].window[1]:
            return None
        return position

    def _make_provenance_without_function(self, node: AutogradNode, name: str, sequence_nr: int) -> Provenance:
        outside = self._explain_outside(node, sequence_nr)
        if outside is not None:
            return Provenance(call_reason=outside, fx_reason=outside)
        call = self.find_module_call(sequence_nr)
        call_id = None if call is None else self._call_ids[call]
        return Provenance(call_id, None if call is not None else NO_CALL, None, _explain_no_fx_node(name, None))

    def _explain_outside(self, node: AutogradNode, sequence_nr: int) -> str | None:
        recorder = self._recorder
        if node in self._ownership.earlier:
            return EARLIER
        if node in self._ownership.upstream:
            return EARLIER if sequence_nr < recorder.started and not recorder.other_threads else ELSEWHERE
        if recorder.other_threads and node not in self._ownership.added:
            return OTHER_THREAD
        if sequence_nr < recorder.started:
            return EARLIER
        return LATER if sequence_nr >= recorder.ended else None

    def find_module_call(self, sequence_nr: int) -> ModuleEvent | None:
        """The innermost module call that was running when this thread made the node of this number."""
        position = bisect_right(self._starts, sequence_nr) - 1
        call = self._recorder.module_calls[position] if position >= 0 else None
        while call is not None and sequence_nr >= call.end:
            call = call.parent
        return call


_LEAF = Provenance(call_reason=LEAF, fx_reason=LEAF)
_WITHOUT_NUMBER = Provenance(call_reason=NO_NUMBER, fx_reason=NO_NUMBER)


def _explain_no_fx_node(name: str, seen: OpEvent | None) -> str:
    if name == "BackwardHookFunctionBackward":
        return HOOK_FUNCTION
    if name == "CheckpointFunctionBackward":
        return CHECKPOINT
    return IN_LOSS if seen is not None and seen.in_loss else OUTSIDE

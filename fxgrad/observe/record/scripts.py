"""Which operator of a TorchScript program ran when a node was made: its place in the script, and the module that it is in.

TorchScript runs without Python. Its interpreter tells PyTorch's own profiler of every operator: its name, the lines that
led to it, and autograd's sequence number before it (torch/csrc/autograd/profiler_legacy.cpp). The node of a number is made
by the operator that was the last to begin with it. The profiler does not tell modules; they are found in the script's
graphs, where the lines, and the order in which the operators ran, leave one possibility.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig

_FRAME = re.compile(r"(?P<file>.+)\((?P<line>\d+)\): (?P<function>.*)")
_RANGE = re.compile(r'^(?P<kept>Serialized +)?(?: *)File "(?P<file>.+)", line (?P<line>\d+)$')
_MARK = "<--- HERE"
_CALL = "fxgrad::call"
_FUSED = "<forward op>"
"""What the profiler calls a differentiable graph (torch/csrc/jit/runtime/graph_executor.cpp)."""
_ARCHIVED = "code/__torch__"
_MOST_NODES = 200_000


class ScriptLine(NamedTuple):
    """A line of the file that a script was written in, or of the code in its archive.

    ``code`` is its text, "" if that is not known, None if the file has it: an archive may be older than the file.
    """

    file: str
    line: int
    code: str | None = None
    function: str = ""


class ScriptOp(NamedTuple):
    """An operator that the interpreter ran, ``aten::linear``, and the lines that led to it, innermost first."""

    kind: str
    frames: tuple[ScriptLine, ...]


class FunctionCall(NamedTuple):
    """A call of a function in the graph of a method: where the profiler sees it, the function's name, and the user's lines."""

    place: ScriptLine
    name: str
    lines: tuple[ScriptLine, ...]


class Site(NamedTuple):
    """An operator in the graphs of a script.

    ``path``     the attributes of the script that lead to the module whose method it is in
    ``called``   the lines of the calls of these methods as the profiler sees them, outermost first
    ``lines``    where it was written; ``around`` where these methods were called, innermost first
    ``functions``  the functions that the method calls
    ``in_loop``  whether it may run more than once in one call of the script
    """

    kind: str
    path: tuple[str, ...]
    called: tuple[ScriptLine, ...]
    lines: tuple[ScriptLine, ...]
    around: tuple[ScriptLine, ...]
    functions: tuple[FunctionCall, ...]
    in_loop: bool

    def may_be(self, frames: Sequence[ScriptLine]) -> bool:
        """Whether these lines, outermost first, may lead here: through calls of methods, and of functions inside the last."""
        count = len(self.called)
        if len(frames) <= count or any(one[:2] != other[:2] for one, other in zip(self.called, frames)):  # noqa: B905
            return False
        return len(frames) == count + 1 or bool(self._list_functions(frames))

    def list_lines(self, frames: Sequence[ScriptLine]) -> tuple[ScriptLine, ...]:
        """The user's lines that led here, innermost first, of the functions on the way the outermost alone."""
        calls = {call.lines for call in self._list_functions(frames)}
        return (*self.lines, *(calls.pop() if len(calls) == 1 else ()), *self.around)

    def _list_functions(self, frames: Sequence[ScriptLine]) -> list[FunctionCall]:
        """The calls of functions that these lines, outermost first, may pass."""
        here, inside = frames[len(self.called)], frames[len(self.called) + 1 :]
        return [
            call for call in self.functions if inside and (call.place[:2], call.name) == (here[:2], inside[0].function)
        ]


class FoundOperator(NamedTuple):
    """What is known of the operator that made a node; ``path`` is None where several modules have such an operator."""

    kind: str
    path: tuple[str, ...] | None
    lines: tuple[ScriptLine, ...]


class ScriptRun:
    """One call of a scripted function or method, ``call``, as the profiler saw it.

    ``ops``    the operators that the interpreter ran, in order
    ``made``   by sequence number, the operator that made a node, by its name and the position of the one in ``ops`` around it
    ``fused``  by the sequence number of the one node of a differentiable graph, the positions of the operators inside
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.ops: list[ScriptOp] = []
        self.made: dict[int, tuple[str, int]] = {}
        self.fused: dict[int, list[int]] = {}

    def watch(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function under the profiler, unless the program has one running, or no node can be made."""
        if torch.autograd._profiler_enabled() or not torch.is_grad_enabled():  # type: ignore[attr-defined]
            return call(*args, **kwargs)
        stack, modules = True, False
        config = ProfilerConfig(ProfilerState.CPU, False, False, stack, False, modules, _ExperimentalConfig())
        torch._C._autograd._enable_profiler_legacy(config)
        try:
            return call(*args, **kwargs)
        finally:
            threads = torch._C._autograd._disable_profiler_legacy()
            if len([events for events in threads if any(event.sequence_nr() >= 0 for event in events)]) == 1:
                for events in threads:  # threads number nodes separately, and do not say which of them made one
                    self._read(events)

    def _read(self, events: Sequence[Any]) -> None:
        depth = 0
        # the functions and methods that run, which the profiler tells by their bare names: for each, the operators of the
        # differentiable graph that it is, or is in
        scopes: list[list[int] | None] = []
        for event in events:
            if event.kind() == "pop":
                del scopes[depth - 1 :]
                depth -= 1
            if event.kind() != "push":
                continue
            depth += 1
            name, sequence_nr, is_direct = event.name(), event.sequence_nr(), depth == len(scopes) + 1
            fused = scopes[-1] if scopes else None
            if is_direct and sequence_nr < 0 and "::" not in name:
                scopes.append([] if name == _FUSED else fused)
            elif is_direct and scopes:
                if fused is not None:
                    fused.append(len(self.ops))
                self.ops.append(ScriptOp(name, tuple(_read_frames(event.stack()))))
            if sequence_nr < 0 or not self.ops:
                continue
            if fused is None:
                self.made[sequence_nr] = name.removeprefix("aten::"), len(self.ops) - 1
            else:  # its inputs are detached: its own node, made before it ran, is the last one so far
                self.fused.setdefault(sequence_nr - 1, fused)

    def find(self, sequence_nr: int, function: str) -> FoundOperator | None:
        """The operator that made the node of this number, if it is one that makes nodes of this function."""
        operator, position = self.made.get(sequence_nr, ("", -1))
        return self._locate(position) if operator.rstrip("_") == function.rstrip("_") else None

    def find_inside(self, sequence_nr: int) -> list[FoundOperator]:
        """The operators inside the differentiable graph whose node has this number."""
        return [self._locate(position) for position in self.fused.get(sequence_nr, ())]

    def _locate(self, position: int) -> FoundOperator:
        op, sites = self.ops[position], self._candidates[position]
        paths = {site.path for site in sites}
        if len(paths) > 1 and not self.fused and not any(site.in_loop for site in sites):
            same = self._positions[sites]
            if len(same) == len(sites):  # each of them ran once, in the order of the graph
                sites = (sites[same.index(position)],)
                paths = {sites[0].path}
        lines = {site.list_lines(op.frames[::-1]) for site in sites}
        return FoundOperator(
            op.kind,
            paths.pop() if len(paths) == 1 else None,
            self._complete(op.frames, lines.pop() if len(lines) == 1 else ()),
        )

    @cached_property
    def _sites(self) -> dict[tuple[str, str, int], list[Site]]:
        """The operators in the graphs of the script in their order, by kind and innermost line."""
        found: dict[tuple[str, str, int], list[Site]] = defaultdict(list)
        for place, site in _list_sites(self.function):
            found[site.kind, place.file, place.line].append(site)
        return found

    @cached_property
    def _candidates(self) -> list[tuple[Site, ...]]:
        """For each of ``ops``, the operators of the graphs that it may be."""
        return [tuple(self._list_candidates(op)) for op in self.ops]

    def _list_candidates(self, op: ScriptOp) -> Iterator[Site]:
        if op.frames:
            frames = op.frames[::-1]
            yield from [site for site in self._sites.get((op.kind, *frames[-1][:2]), ()) if site.may_be(frames)]

    @cached_property
    def _positions(self) -> dict[tuple[Site, ...], list[int]]:
        found: dict[tuple[Site, ...], list[int]] = defaultdict(list)
        for position, sites in enumerate(self._candidates):
            found[sites].append(position)
        return found

    def _complete(self, frames: tuple[ScriptLine, ...], lines: tuple[ScriptLine, ...]) -> tuple[ScriptLine, ...]:
        """The lines of the graphs know the files that an archive was made of, those of the profiler all that is around."""
        return lines if len(lines) >= len(frames) or (lines and lines[0][:2] != frames[0][:2]) else frames


def is_optimized_script(function: Any) -> bool:
    """Whether TorchScript has optimized a function or method, as it does the second time that it runs; also True where
    that cannot be asked. (torch/csrc/jit/runtime/profiling_graph_executor_impl.cpp, getDebugState)"""
    holder: Any = function.owner if isinstance(function, torch._C.ScriptMethod) else function
    if function.name not in ("forward", getattr(holder, "name", None)):
        return True  # a module tells it of its forward alone
    try:
        holder.get_debug_state()
    except RuntimeError:
        return False
    return True


def _read_frames(stack: Sequence[str]) -> Iterator[ScriptLine]:
    for frame in map(_FRAME.fullmatch, stack):
        if frame is not None:
            code = "" if frame["file"].startswith(_ARCHIVED) else None
            yield ScriptLine(frame["file"], int(frame["line"]), code, frame["function"])


# The graphs of a script


class _Scope(NamedTuple):
    """A place in the walk: the nodes that follow, and of the method that they are in what `Site` says."""

    nodes: Iterator[Any]
    owner: Any
    path: tuple[str, ...]
    called: tuple[ScriptLine, ...]
    around: tuple[ScriptLine, ...]
    functions: tuple[FunctionCall, ...]
    in_loop: bool


def _list_sites(function: Any) -> Iterator[tuple[ScriptLine, Site]]:
    """Every operator in the graph of a function or method, and in those that it calls, in their order, each with its place
    as the profiler tells it. Nothing where the graphs are too many."""
    found: list[tuple[ScriptLine, Site]] = []
    owner = function.owner if isinstance(function, torch._C.ScriptMethod) else None
    graph = function.graph
    stack = [_Scope(_expand(graph), owner, (), (), (), _list_functions(graph), in_loop=False)]
    count = 0
    while stack and count < _MOST_NODES:
        scope = stack[-1]
        node = next(scope.nodes, None)
        count += 1
        if node is None:
            stack.pop()
            continue
        kind = node.kind()
        place, lines = _read_range(node)
        if kind == _CALL:
            stack += _enter_call(node, scope, place, lines)
        elif place is not None and kind.startswith("aten::"):
            found.append((place, Site(kind, scope.path, scope.called, lines, scope.around, *scope[-2:])))
        in_loop = scope.in_loop or kind == "prim::Loop"
        stack += [scope._replace(nodes=block.nodes(), in_loop=in_loop) for block in reversed(list(node.blocks()))]
    return iter(() if stack else found)


def _enter_call(node: Any, scope: _Scope, place: ScriptLine | None, lines: tuple[ScriptLine, ...]) -> Iterator[_Scope]:
    path = _read_path(node)
    if path is None or scope.owner is None:
        return
    owner = scope.owner
    for name in path:
        owner = owner.getattr(name)
    called = scope.called if place is None else (*scope.called, place)
    graph = owner._get_method(node.s("name")).graph
    functions = _list_functions(graph)
    yield _Scope(_expand(graph), owner, (*scope.path, *path), called, (*lines, *scope.around), functions, scope.in_loop)


def _list_functions(graph: Any) -> tuple[FunctionCall, ...]:
    found = []
    for call in graph.findAllNodes("prim::CallFunction", recurse=True):
        place, lines = _read_range(call)
        if place is not None:
            found.append(FunctionCall(place, next(call.inputs()).node().s("name"), lines))
    return tuple(found)


def _read_path(call: Any) -> tuple[str, ...] | None:
    """The attributes that lead from the module to the one whose method is called; None where it comes from elsewhere."""
    path: list[str] = []
    value = next(call.inputs())
    while value.node().kind() == "prim::GetAttr":
        path.insert(0, value.node().s("name"))
        value = next(value.node().inputs())
    is_self = value.node().kind() == "prim::Param" and next(value.node().outputs()).debugName() == value.debugName()
    return tuple(path) if is_self else None


def _expand(graph: Any) -> Iterator[Any]:
    """The nodes of a copy of a graph, functions inlined and calls of methods not."""
    copy = graph.copy()
    for call in copy.findAllNodes("prim::CallMethod", recurse=True):
        mark = copy.create(_CALL, list(call.inputs()), call.outputsSize())
        mark.copyMetadata(call)
        mark.s_("name", call.s("name"))
        mark.insertBefore(call)
        for before, after in zip(call.outputs(), mark.outputs(), strict=True):
            after.setType(before.type())
            before.replaceAllUsesWith(after)
        call.destroy()
    torch._C._jit_pass_inline(copy)
    for node in copy.nodes():  # noqa: UP028 - the copy lives as long as this does
        yield node


def _read_range(node: Any) -> tuple[ScriptLine | None, tuple[ScriptLine, ...]]:
    """The place of a node as the profiler tells it, and the lines of the user's program that it was made of.

    As torch/csrc/jit/frontend/source_range.cpp prints them: for a script the file, the line, and a part of the text around;
    for a trace the stack of Python; for what was loaded, the same of the code in the archive after that.
    """
    lines: list[ScriptLine] = []
    place: ScriptLine | None = None
    text: list[str] = node.sourceRange().splitlines()
    is_archived = any(line.startswith("Serialized ") for line in text)
    for number, line in enumerate(text):
        found, frame = _RANGE.match(line), _FRAME.fullmatch(line)
        if found is not None:
            code = _find_marked(text[number + 1 :])
            place = ScriptLine(found["file"], int(found["line"]), code)
            if found["kept"] is None:
                lines.append(place)
        elif frame is not None and not any(_MARK in each for each in text[:number]):
            lines.append(ScriptLine(frame["file"], int(frame["line"]), "" if is_archived else None, frame["function"]))
    return place or next(iter(lines), None), tuple(lines) or (() if place is None else (place,))


def _find_marked(text: Sequence[str]) -> str:
    """The line above the first that is underlined."""
    for before, line in pairwise(text):
        if set(line.replace(_MARK, "").strip()) == {"~"}:
            return before.strip()
    return ""

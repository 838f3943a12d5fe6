"""The recorded forward as a picture, alone or beside the backward graph.

Values go down, from the arguments to the result. The frame of a module call names the hooks on its module; the other
hooks stand at the call that made their node. In a picture of both, backward goes up beside the forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, FxNode, HookSite, ModuleCall, Node, TensorMeta, TensorRef
from fxgrad.graph.text import count_noun, escape, format_meta, format_shape, join_words
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.captions import (
    NAME_WIDTH,
    PART_WIDTH,
    describe_call,
    describe_variable,
    format_hooks,
    format_place,
    identify_call,
    list_hooks_left_out,
    locate,
    note_call,
    shorten,
    title_call,
)
from fxgrad.render.pictures.parts import Arrow, Box, Cluster, Identity, Line, Picture
from fxgrad.render.pictures.picture import check_depth, compose_view, look_at, make_call_box
from fxgrad.render.pictures.scope import (
    Lineage,
    View,
    find_called_path,
    find_collapsed_call,
    find_common_calls,
    find_lineages,
)
from fxgrad.render.pictures.theme import Flow, Look

MOST_BOXES_OF_BOTH = 120
"""In a larger picture of both nobody can follow the lines that join them."""
_BACKWARD, _FORWARD = "cluster_backward", "cluster_forward"
_PICKS = {"operator.getitem": "[{}]", "getattr": ".{}"}
"""What takes a result out of several, and how Python writes it."""


def compose_forward(graph: BackwardGraph, *, module: str | None = None, depth: int | None = None) -> Picture:
    """Decide what to draw of the recorded forward, from the arguments at the top to the result at the bottom.

    ``module`` draws only what ran in the calls of the module of that path, with its direct neighbours as stubs. ``depth``
    makes one box of each module call whose path has more than that many components. What only picks one of the results of
    a call is part of the arrow from it; what changes the grad mode, and the like, is left out.

    Raises `UsageError` where no forward was recorded, for a negative depth and for a module that was not called.
    """
    return _compose_forward(_look_at_forward(graph, module, depth))


def compose_both(graph: BackwardGraph, *, module: str | None = None, depth: int | None = None) -> Picture:
    """Draw the forward and beside it the backward graph, and join each call with the nodes where its backward begins.

    Raises `UsageError` as `compose_forward` does, and where there are too many boxes.
    """
    before = _look_at_forward(graph, module, depth)
    after = look_at(graph, module=module, depth=depth, everything=depth is None)
    forward, backward = _compose_forward(before), compose_view(after)
    boxes = len(forward.boxes) + len(backward.boxes)
    if boxes > MOST_BOXES_OF_BOTH:
        raise UsageError(
            f"forward and backward in one picture: {boxes:,} boxes",
            f"at most {MOST_BOXES_OF_BOTH}",
            "one module (module, --module), a smaller depth (depth, --depth), or one of the two alone",
        )
    frames = (("forward", _FORWARD, forward), ("backward", _BACKWARD, backward))
    return Picture(
        headline=(*forward.headline, *backward.headline[:1], _UPWARD, *backward.headline[2:]),
        boxes=tuple(box._replace(cluster=box.cluster or key) for _, key, each in frames for box in each.boxes),
        arrows=(
            *forward.arrows,
            *(arrow._replace(upward=True) for arrow in backward.arrows),
            *_make_pairs(before, after),
        ),
        clusters=(
            *(Cluster(key, None, 0, title, (), (title,)) for title, key, _ in frames),
            *(_put_into(cluster, key) for _, key, each in frames for cluster in each.clusters),
        ),
    )


_UPWARD = "Backward runs beside it, from the roots at the bottom up to the leaves."


def _put_into(cluster: Cluster, frame: str) -> Cluster:
    return cluster._replace(parent=cluster.parent or frame, level=cluster.level + 1)


# What is in sight of the forward


class Use(NamedTuple):
    """An fx node that gets a result of another.

    ``steps``  what picks the result, as ``[0]`` or ``.logits``; "" for the result itself
    ``given``  the fx node that is the argument: the last of those that pick
    """

    tail: str
    head: str
    steps: str
    given: str


@dataclass(frozen=True)
class ForwardView:
    """The fx nodes drawn and what is known of them, by their names.

    ``nodes``   those drawn, in the order of the run; ``stubs`` are those that are only neighbours
    ``homes``   for each fx node the id of the module call that it is drawn in
    ``groups``  for each fx node drawn in one box with others, the id of the call that the box stands for
    ``ranks``   for each fx node, and for each module call, its place among all
    ``made``    for each fx node the nodes of the backward graph that it made; of an argument or a parameter, its own
    ``metas``   for each fx node that gives one tensor, what that looked like
    ``sites``   for each fx node, and for each module call, the sites of the hooks there
    """

    graph: BackwardGraph
    nodes: tuple[FxNode, ...]
    stubs: frozenset[str]
    uses: tuple[Use, ...]
    homes: Mapping[str, str | None]
    groups: Mapping[str, str]
    lineages: Mapping[str, Lineage]
    ranks: Mapping[str, int]
    made: Mapping[str, list[Node]]
    metas: Mapping[str, TensorMeta]
    sites: Mapping[str, list[HookSite]]

    def key(self, name: str) -> str:
        """The key of the box that an fx node is drawn in."""
        return self.group_key(self.groups[name]) if name in self.groups else f"f{self.ranks[name]}"

    def group_key(self, call: str) -> str:
        """The key of the one box that stands for a module call."""
        return f"g{self.ranks[call]}"

    def cluster_key(self, call: str | None) -> str | None:
        """The key of the frame that a module call is drawn as."""
        return None if call is None else f"clusterf{self.ranks[call]}"


def _look_at_forward(graph: BackwardGraph, module: str | None, depth: int | None) -> ForwardView:
    if not graph.forward:
        raise UsageError(
            f"a picture of the forward: {escape(graph.info.calls_reason or 'no call was recorded')}",
            "a trace of a forward that fxgrad recorded",
            "fxgrad.trace or fxgrad.record; or draw the backward graph",
        )
    check_depth(depth)
    picks = {fx_node.name: fx_node for fx_node in graph.forward if _is_pick(fx_node)}
    uses = tuple(_list_uses(graph, picks))
    shown = tuple(each for each in graph.forward if each.name not in picks and _gives_or_takes(each))
    lineages = find_lineages(graph)
    homes = _find_homes(shown, uses, lineages)
    names, stubs = frozenset(homes), frozenset[str]()
    if module is not None:
        members = _find_members(graph, homes, find_called_path(graph, module))
        uses = tuple(use for use in uses if use.tail in members or use.head in members)
        names = members.union(*((use.tail, use.head) for use in uses))
        stubs = frozenset(each.name for each in shown if each.name in names - members and _is_call(each))
    drawn = tuple(each for each in shown if each.name in names)
    made = _find_made(graph, picks)
    return ForwardView(
        graph=graph,
        nodes=drawn,
        stubs=stubs,
        uses=uses,
        homes=homes,
        groups={} if depth is None else dict(_group(graph, drawn, homes, lineages, depth)),
        lineages=lineages,
        ranks={
            **{fx_node.name: rank for rank, fx_node in enumerate(graph.forward)},
            **{call.id: rank for rank, call in enumerate(graph.calls)},
        },
        made=made,
        metas=_find_metas(graph),
        sites=_place_sites(graph, made),
    )


def _is_call(fx_node: FxNode) -> bool:
    return fx_node.op.startswith("call")


def _is_pick(fx_node: FxNode) -> bool:
    """Whether it takes a tensor out of what holds several: that shares no memory, unlike ``x[0]`` of a tensor."""
    known = fx_node.target in _PICKS and len(fx_node.inputs) == 1
    return known and bool(fx_node.meta) and not fx_node.aliases


def _gives_or_takes(fx_node: FxNode) -> bool:
    """Whether tensors go in or come out; none do where a call changes the grad mode."""
    return not _is_call(fx_node) or bool(fx_node.inputs or fx_node.meta)


def _list_uses(graph: BackwardGraph, picks: Mapping[str, FxNode]) -> Iterator[Use]:
    for fx_node in graph.forward:
        for given in () if fx_node.name in picks else fx_node.inputs:
            steps, name = "", given
            while name in picks:
                pick = picks[name]
                steps = _PICKS[pick.target].format(pick.args_text.partition(", ")[2]) + steps
                name = pick.inputs[0]
            yield Use(name, fx_node.name, steps, given)


def _find_picked(name: str, picks: Mapping[str, FxNode]) -> str:
    while name in picks:
        name = picks[name].inputs[0]
    return name


def _find_homes(shown: Iterable[FxNode], uses: Iterable[Use], lineages: Mapping[str, Lineage]) -> dict[str, str | None]:
    """A call is at home where it ran; a parameter in the innermost module call around all that use it."""
    homes = {each.name: each.modules[-1] if each.modules else None for each in shown}
    attributes = {each.name for each in shown if each.op == "get_attr"}
    users: dict[str, list[Lineage]] = {}
    for use in uses:
        if use.tail in attributes:
            users.setdefault(use.tail, []).append(lineages.get(homes[use.head] or "", ()))
    common = {name: reduce(find_common_calls, around) for name, around in users.items()}
    return homes | {name: lineage[-1] if lineage else None for name, lineage in common.items()}


def _find_members(graph: BackwardGraph, homes: Mapping[str, str | None], path: str) -> frozenset[str]:
    inside = {call.id for call in graph.calls if any(one.path == path for one in graph.enclosing_calls(call.id))}
    return frozenset(name for name, home in homes.items() if home in inside)


def _group(
    graph: BackwardGraph,
    drawn: Iterable[FxNode],
    homes: Mapping[str, str | None],
    lineages: Mapping[str, Lineage],
    depth: int,
) -> Iterator[tuple[str, str]]:
    for fx_node in drawn:
        group = find_collapsed_call(graph, lineages.get(homes[fx_node.name] or "", ()), depth)
        if group is not None:
            yield fx_node.name, group


def _find_metas(graph: BackwardGraph) -> dict[str, TensorMeta]:
    """What a call gives is recorded with it; what the model gets, with the outermost module call."""
    attributes = [each for each in graph.forward if each.op == "get_attr" and each.target in graph.variables_by_name]
    return {
        **{
            ref.fx_node: ref.meta
            for ref in _list_arguments(graph)
            if ref.fx_node is not None and len(ref.path) == _WHOLE
        },
        **{each.name: graph.variables_by_name[each.target].meta for each in attributes},
        **{each.name: each.meta[0] for each in graph.forward if len(each.meta) == 1},
    }


_WHOLE = 2
"""Length of the path of an argument that is a tensor, ``("args", 0)``; that of a tensor in an argument is longer."""


def _list_arguments(graph: BackwardGraph) -> Iterator[TensorRef]:
    return (ref for call in graph.calls if call.parent is None for ref in call.inputs)


def _find_made(graph: BackwardGraph, picks: Mapping[str, FxNode]) -> dict[str, list[Node]]:
    made: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.fx_node is not None:
            made.setdefault(node.fx_node, []).append(node)
    for fx_node in graph.forward:
        variable = graph.variables_by_name.get(fx_node.target) if fx_node.op == "get_attr" else None
        if variable is not None and variable.node is not None and variable.is_leaf:
            made.setdefault(fx_node.name, []).append(graph.nodes[variable.node])
    for ref in _list_arguments(graph):
        if ref.is_leaf and ref.node is not None and ref.fx_node is not None:
            name, node = _find_picked(ref.fx_node, picks), graph.nodes[ref.node]
            made[name] = [*(each for each in made.get(name, ()) if each.id != node.id), node]
    return made


def _place_sites(graph: BackwardGraph, made: Mapping[str, list[Node]]) -> dict[str, list[HookSite]]:
    """A module's hook is at its call; any other at the fx node that made its node, or at the call around it."""
    makers = {node.id: name for name, nodes in made.items() for node in nodes}
    placed: dict[str, list[HookSite]] = {}
    for site in graph.sites:
        place = site.call if site.hook.kind.is_module else None
        if place is None and site.node is not None:
            call = graph.find_maker(graph.nodes[site.node])
            place = makers.get(site.node, None if call is None else call.id)
        if place is not None:
            placed.setdefault(place, []).append(site)
    return placed


# Boxes, frames and arrows


def _compose_forward(view: ForwardView) -> Picture:
    groups: dict[str, list[FxNode]] = {}
    for fx_node in view.nodes:
        if fx_node.name in view.groups:
            groups.setdefault(view.groups[fx_node.name], []).append(fx_node)
    boxes = (
        *(_make_box(view, fx_node) for fx_node in view.nodes if fx_node.name not in view.groups),
        *(_make_group_box(view, view.graph.calls_by_id[call], members) for call, members in groups.items()),
    )
    clusters = tuple(_make_clusters(view, {box.cluster for box in boxes}))
    return Picture(tuple(_format_headline(view)), boxes, tuple(_make_arrows(view)), clusters)


def _make_box(view: ForwardView, fx_node: FxNode) -> Box:
    key, tooltip, home = view.key(fx_node.name), tuple(_describe(view, fx_node)), view.homes[fx_node.name]
    title = Line(shorten(escape(fx_node.target if fx_node.op == "get_attr" else fx_node.name), NAME_WIDTH), bold=True)
    if fx_node.name in view.stubs:
        return Box(key, theme.STUB, (title, *_format_home(view, home)), tooltip, None, _identify(view, fx_node))
    lines = (title, *_format_contents(view, fx_node), *format_hooks(view.sites.get(fx_node.name, ())))
    return Box(key, _pick_look(fx_node), lines, tooltip, view.cluster_key(home), _identify(view, fx_node))


def _identify(view: ForwardView, fx_node: FxNode) -> Identity:
    kinds = {"placeholder": "argument", "get_attr": "attribute", "output": "result"}
    home = view.homes[fx_node.name]
    module = None if home is None else view.graph.calls_by_id[home].path
    return Identity(kinds.get(fx_node.op, "call"), fx_node.name, module, *locate(fx_node.source))


def _pick_look(fx_node: FxNode) -> Look:
    if _is_call(fx_node):
        without = bool(fx_node.requires_grad) and not any(fx_node.requires_grad)
        return theme.CALL_WITHOUT_GRAD if without else theme.CALL
    return {"placeholder": theme.ARGUMENT, "get_attr": theme.ATTRIBUTE, "output": theme.RESULT}[fx_node.op]


def _format_home(view: ForwardView, home: str | None) -> Iterator[Line]:
    if home is not None:
        call = view.graph.calls_by_id[home]
        yield Line(format_place(call, times=view.graph.calls_per_module[call.path]))


def _format_contents(view: ForwardView, fx_node: FxNode) -> Iterator[Line]:
    """Of a call where its backward begins; of anything else its shape."""
    if _is_call(fx_node):
        entries = _find_entries(view.made.get(fx_node.name, ()))
        yield from (Line(shorten(escape(node.label), NAME_WIDTH)) for node in entries)
    elif fx_node.name in view.metas:
        variable = view.graph.variables_by_name.get(fx_node.target) if fx_node.op == "get_attr" else None
        kind = f" · {variable.kind}" if variable is not None and variable.kind != "parameter" else ""
        yield Line(f"{format_shape(view.metas[fx_node.name].shape)}{kind}")


def _find_entries(made: Sequence[Node]) -> list[Node]:
    """Of the nodes that one call made, those that get no gradient from another of them; a leaf's is not the call's."""
    inside = {edge.next_node for node in made for edge in node.edges}
    return [node for node in made if node.id not in inside and not node.kind.is_leaf]


def _describe(view: ForwardView, fx_node: FxNode) -> Iterator[str]:
    """Everything known of an fx node that its box has no room for."""
    yield escape(f"{fx_node.name}: {fx_node.op} {fx_node.target}")
    if fx_node.args_text:
        yield f"arguments: {shorten(escape(fx_node.args_text), _TOOLTIP_WIDTH)}"
    for index, meta in enumerate(fx_node.meta):
        grad = f", requires grad: {fx_node.requires_grad[index]}" if index < len(fx_node.requires_grad) else ""
        yield f"result {index}: {escape(format_meta(meta))}{grad}"
    if fx_node.op == "get_attr":
        yield from describe_variable(view.graph, fx_node.target)
    made = view.made.get(fx_node.name, ())
    if made:
        yield f"in the backward graph: {join_words([escape(node.label) for node in made])}"
    if fx_node.modules:
        yield f"in the module call {escape(fx_node.modules[-1])}"
    if fx_node.source is not None:
        yield escape(f"{fx_node.source.file}:{fx_node.source.line}  {fx_node.source.code}".rstrip())


_TOOLTIP_WIDTH = 200


def _make_group_box(view: ForwardView, call: ModuleCall, members: Sequence[FxNode]) -> Box:
    within = [inner.id for inner in view.graph.calls if view.graph.is_within(inner.id, call.id)]
    places = [*within, *(fx_node.name for fx_node in members)]
    sites = [site for place in places for site in view.sites.get(place, ())]
    key, cluster = view.group_key(call.id), view.cluster_key(call.parent)
    return make_call_box(view.graph, call, key, cluster, sites, _count_calls(members))


def _count_calls(fx_nodes: Iterable[FxNode]) -> str:
    return count_noun(sum(map(_is_call, fx_nodes)), "function call", zero="0")


def _make_clusters(view: ForwardView, needed: set[str | None]) -> Iterator[Cluster]:
    """The module calls that have a box in them, each before those in it."""
    calls = [call for call in view.graph.calls if view.cluster_key(call.id) in needed]
    around = {one for call in calls for one in view.lineages[call.id]}
    for call_id in sorted(around, key=lambda call: (len(view.lineages[call]), view.ranks[call])):
        call = view.graph.calls_by_id[call_id]
        yield Cluster(
            key=f"clusterf{view.ranks[call_id]}",
            parent=view.cluster_key(call.parent),
            level=len(view.lineages[call_id]) - 1,
            title=title_call(call),
            notes=tuple(note_call(call, times=view.graph.calls_per_module[call.path])),
            tooltip=tuple(describe_call(view.graph, call)),
            hooks=tuple(format_hooks(view.sites.get(call_id, ()))),
            identity=identify_call(call),
        )


def _make_arrows(view: ForwardView) -> Iterator[Arrow]:
    bundles: dict[tuple[str, str], list[Use]] = {}
    for use in view.uses:
        bundles.setdefault((view.key(use.tail), view.key(use.head)), []).append(use)
    for (tail, head), uses in bundles.items():
        if tail == head:
            continue
        tooltip = tuple(_describe_use(use) for use in uses)
        if len(uses) > 1 and (uses[0].tail in view.groups or uses[0].head in view.groups):
            values = len({(use.tail, use.steps) for use in uses})
            yield Arrow(tail, head, (count_noun(values, "value"),), tooltip, Flow.VALUE)
        else:
            for use, line in zip(uses, tooltip, strict=True):
                yield Arrow(tail, head, tuple(_format_use(view, use)), (line,), Flow.VALUE)


def _format_use(view: ForwardView, use: Use) -> Iterator[str]:
    """Which result it is, and its shape; what is no call has its shape in its box."""
    if use.steps:
        yield shorten(escape(use.steps), PART_WIDTH)
    if use.given in view.metas and _is_call(view.graph.fx_nodes_by_name[use.given]):
        yield format_shape(view.metas[use.given].shape)


def _describe_use(use: Use) -> str:
    return escape(f"{use.tail}{use.steps} is an argument of {use.head}")


def _make_pairs(before: ForwardView, after: View) -> Iterator[Arrow]:
    """Lines between the boxes of calls and those of the nodes where their backward begins, each once."""
    inside = set(after.scope.nodes)
    pairs = {
        (before.key(fx_node.name), after.key(node.id)): (fx_node.name, node.label)
        for fx_node in before.nodes
        if _is_call(fx_node)
        for node in _find_entries(before.made.get(fx_node.name, ()))
        if node.id in inside
    }
    for (call, node), (name, label) in pairs.items():
        yield Arrow(call, node, (), (escape(f"{name} made {label}"),), Flow.PAIR)


def _format_headline(view: ForwardView) -> Iterator[str]:
    """What the picture is of, and how it is read."""
    graph = view.graph
    outermost = next((call for call in graph.calls if call.parent is None), None)
    yield " · ".join(
        [
            f"Forward of {shorten(escape(outermost.type_name), PART_WIDTH)}" if outermost else "Forward",
            _count_drawn(view),
            *([count_noun(len(graph.hooks), "hook")] if graph.hooks else []),
            f"emulated {escape(graph.info.device)}" if graph.info.emulated else escape(graph.info.device),
        ]
    )
    yield "Values go down, from the arguments to what the forward returns."
    places = {name for home in view.homes.values() if home is not None for name in view.lineages[home]}
    shown = {site.hook.id for place in places.union(view.homes) for site in view.sites.get(place, ())}
    yield from list_hooks_left_out(graph, shown, where="at no call of this forward")


def _count_drawn(view: ForwardView) -> str:
    homes, shown = view.homes, {fx_node.name for fx_node in view.nodes} - view.stubs
    calls = [fx_node for fx_node in view.graph.forward if _is_call(fx_node) and fx_node.name in homes]
    drawn = sum(fx_node.name in shown for fx_node in calls)
    return _count_calls(calls) if drawn == len(calls) else f"{drawn:,} of {_count_calls(calls)}"

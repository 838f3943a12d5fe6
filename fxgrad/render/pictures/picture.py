"""The boxes, arrows and frames that show a backward graph."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

from fxgrad.collection import pause_collection
from fxgrad.errors import UsageError
from fxgrad.graph import (
    BackwardGraph,
    Explanation,
    HookSite,
    ModuleCall,
    Node,
    Root,
)
from fxgrad.graph.names import format_expression
from fxgrad.graph.records import Shape
from fxgrad.graph.text import (
    count_noun,
    escape,
    escape_unprintable,
    format_backward_call,
    format_path,
    format_ranges,
    format_shape,
)
from fxgrad.predict import predict_nodes
from fxgrad.render.pictures import scope, theme
from fxgrad.render.pictures.captions import (
    NAME_WIDTH,
    PART_WIDTH,
    describe_call,
    describe_edge,
    describe_node,
    format_edge,
    format_edge_shape,
    format_hooks,
    format_node,
    format_place,
    format_root,
    identify_call,
    list_hooks_left_out,
    locate,
    note_call,
    shorten,
    title_call,
    title_root,
)
from fxgrad.render.pictures.folding import Group, Wish
from fxgrad.render.pictures.inner_modules import add_inner_modules
from fxgrad.render.pictures.parts import (
    Arrow,
    Box,
    Cluster,
    Identity,
    Line,
    Picture,
    Remark,
)
from fxgrad.render.pictures.scope import (
    FLOW_OF_STATUS,
    Link,
    View,
    find_dead_ends,
    find_owning_call,
    make_view,
    pick_strongest,
)
from fxgrad.render.pictures.theme import Flow
from fxgrad.rules import explain
from fxgrad.rules.fxg2_gradients import LostGradient, describe_lost_gradient, find_lost_gradients

_HEADLINE_WIDTH = 100


@pause_collection()
def compose_picture(
    graph: BackwardGraph,
    *,
    module: str | None = None,
    hooks_only: bool = False,
    depth: int | None = None,
    expand: Iterable[str] = (),
    everything: bool = False,
) -> Picture:
    """Decide what to draw of a graph, from the roots at the top to the leaves at the bottom.

    A small graph is drawn whole, of a larger one what `fxgrad.render.pictures.folding` leaves open. ``module`` draws only what belongs
    to the module of that path, with its direct neighbours as stubs. ``hooks_only`` draws only the nodes that carry hooks, the
    roots and the leaves, joined by the paths between them. ``depth`` makes one box of each module call whose path has more
    than that many components. ``expand`` are paths of modules that are open whatever comes. ``everything`` folds nothing.

    Raises `UsageError` for a negative depth, for a module that was not called, and for everything with depth or expand.
    """
    view = look_at(
        graph, module=module, hooks_only=hooks_only, depth=depth, expand=tuple(expand), everything=everything
    )
    return compose_view(view)


def look_at(
    graph: BackwardGraph,
    *,
    module: str | None = None,
    hooks_only: bool = False,
    depth: int | None = None,
    expand: Sequence[str] = (),
    everything: bool = False,
) -> View:
    """Decide which nodes are drawn and in which boxes; the options are those of `compose_picture`."""
    check_depth(depth)
    if everything and (depth is not None or expand):
        raise UsageError(
            f"all with {'expand' if depth is None else 'depth'}",
            "one of them",
            "all alone, which opens every module",
        )
    predictions, findings = predict_nodes(graph), _find_findings(graph)
    graph = add_inner_modules(graph)
    opened = [scope.find_called_path(graph, path) for path in (*expand, *([] if module is None else [module]))]
    drawn = scope.select_all(graph, predictions) if module is None else scope.select_module(graph, predictions, module)
    drawn = scope.select_hooked(graph, drawn) if hooks_only else drawn
    wish = Wish(everything, depth, frozenset(opened))
    return make_view(graph, predictions, drawn, wish, findings)


def _find_findings(graph: BackwardGraph) -> dict[int, tuple[Explanation, ...]]:
    """The warnings and errors about the hooks on each node."""
    found: dict[int, tuple[Explanation, ...]] = {}
    for finding in explain(graph, unasked=True) if graph.sites else ():
        if finding.severity != "info" and finding.site is not None and finding.site.node is not None:
            node = finding.site.node
            found[node] = (*found.get(node, ()), finding)
    return found


def check_depth(depth: int | None) -> None:
    """Raise `UsageError` for a negative depth."""
    if depth is not None and depth < 0:
        raise UsageError(f"depth {depth}", "a depth of 0 or more", "omit depth to draw everything")


def compose_view(view: View) -> Picture:
    """The boxes, arrows and frames of what is in sight."""
    drawn_boxes = _make_boxes(view)
    return Picture(
        headline=tuple(_format_headline(view)),
        boxes=drawn_boxes,
        arrows=_make_arrows(view),
        clusters=_make_clusters(view, drawn_boxes),
    )


# Boxes and frames


def _make_boxes(view: View) -> tuple[Box, ...]:
    """Every box: the roots, the nodes in id order, what stands for several, and where no gradient goes on."""
    groups = view.folding.groups.values()
    alone = [group for group in groups if group.kind == "node"]
    return (
        *_make_root_boxes(view),
        *(_make_node_box(view, group) for group in alone),
        *(_make_group_box(view, group) for group in groups if group.kind != "node"),
        *(_make_dead_end(view, group) for group in alone if _find_dead_ends(view, group)),
        *_make_lost_boxes(view),
    )


def _make_lost_boxes(view: View) -> Iterator[Box]:
    """The parameters that no node of the graph belongs to, with why no gradient reaches them: no edge leads there."""
    alike: dict[tuple[str | None, str], list[LostGradient]] = {}
    inside = {box.home for box in view.folding.groups.values()}
    if view.scope.stubs or not view.scope.covers(view.graph):
        return  # a part of the graph is drawn
    for lost in find_lost_gradients(view.graph):
        if view.graph.find_gradient_node(lost.parameter) is None:
            owner = find_owning_call(view.graph, lost.parameter.name)
            home = owner if owner in inside else None
            alike.setdefault((home, describe_lost_gradient(view.graph, lost)), []).append(lost)
    for rank, ((home, why), group) in enumerate(alike.items()):
        names = [escape(lost.parameter.name) for lost in group]
        shown = [shorten(name, NAME_WIDTH) for name in names[:_MOST_LOST]]
        more = [f"and {len(names) - _MOST_LOST:,} more parameters"] if len(names) > _MOST_LOST else []
        reason = [Line(line) for line in textwrap.wrap(why, NAME_WIDTH, break_long_words=False)[:_MOST_REASON_LINES]]
        yield Box(
            key=f"l{rank}",
            look=theme.LOST,
            lines=(*(Line(line, bold=True) for line in [*shown, *more]), *reason),
            tooltip=(f"no gradient reaches {', '.join(_cut(names))}", why),
            cluster=view.cluster_key(home),
            identity=Identity("lost", group[0].parameter.name, group[0].parameter.name.rpartition(".")[0]),
        )


_MOST_LOST, _MOST_REASON_LINES = 4, 4


def _make_clusters(view: View, drawn: Iterable[Box]) -> tuple[Cluster, ...]:
    """The module calls that have a box in them, each before those in it."""
    needed = {box.cluster for box in drawn}
    calls = [call for call in view.folding.frames if view.cluster_key(call) in needed]
    around = {one for call in calls for one in view.lineages[call]}
    frames = sorted(around, key=lambda call: (len(view.lineages[call]), view.call_ranks[call]))
    return tuple(_make_cluster(view, call) for call in frames)


def _make_cluster(view: View, shown: str) -> Cluster:
    frame, call = view.folding.frames[shown], view.graph.calls_by_id[shown]
    return Cluster(
        key=f"cluster{view.call_ranks[shown]}",
        parent=view.cluster_key(call.parent),
        level=len(view.lineages[shown]) - 1,
        title=_title_calls(view, frame.calls, call.parent, times=frame.times),
        notes=tuple(_note_calls(view.graph, frame.calls, times=frame.times)),
        tooltip=tuple(_describe_calls(view.graph, call, frame.calls)),
        identity=identify_call(call),
        times=frame.times,
    )


def _identify_node(view: View, node: Node) -> Identity:
    home = view.homes[node.id]
    module = None if home is None else view.graph.calls_by_id[home].path
    return Identity(
        "leaf" if node.kind.is_leaf else "node",
        node.label if node.variable is None else node.variable,
        module,
        *locate(node.source),
    )


def _root_key(rank: int) -> str:
    """The key of the box that stands above the rank-th root."""
    return f"r{rank}"


def _dead_end_key(node: int) -> str:
    """The key of the box where a node's edges that lead nowhere end."""
    return f"x{node}"


def _find_dead_ends(view: View, group: Group) -> tuple[int, ...]:
    """The edges of a node that are drawn as leading nowhere; none of a neighbour's."""
    return () if group.shown in view.scope.stubs else find_dead_ends(view.graph, view.graph.nodes[group.shown])


def _make_root_boxes(view: View) -> Iterator[Box]:
    for rank, group in _group_roots(view):
        paths = [title_root(root) for root in group]
        title = paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"
        lines = [Line(title, bold=True), *([Line(f"{len(paths)} roots")] if len(paths) > 1 else [])]
        tooltip = tuple(f"root: {path}" for path in _cut(paths))
        identity = Identity("root", format_path(group[0].path))
        yield Box(_root_key(rank), theme.ROOT, tuple(lines), tooltip, None, identity, len(paths))


def _group_roots(view: View) -> list[tuple[int, list[Root]]]:
    """The roots that have a box together, with the rank of the first: many at one box, or of many all."""
    roots = view.roots
    alike: dict[str, list[tuple[int, Root]]] = {}
    for rank, root in roots:
        alike.setdefault("" if len(roots) > _MOST_ROOTS else view.key(root.node), []).append((rank, root))
    split = [
        part
        for group in alike.values()
        for part in ([group] if len(group) > _FEW_ROOTS else [[each] for each in group])
    ]
    return [(part[0][0], [root for _, root in part]) for part in sorted(split, key=lambda part: part[0][0])]


_FEW_ROOTS, _MOST_ROOTS = 3, 16


def _make_node_box(view: View, group: Group) -> Box:
    node = view.graph.nodes[group.shown]
    sites = [site for each in group.nodes for site in view.graph.sites_by_node.get(each, ())]
    identity = _identify_node(view, node)
    tooltip = tuple(describe_node(view.graph, node, sites, received=view.predictions[node.id].grad_outputs))
    if node.id in view.scope.stubs:
        lines = (*format_node(view.graph, node), *_format_home(view, node))
        return Box(group.key, theme.STUB, lines, tooltip, None, identity)
    findings = _list_findings(view, group)
    lines = (
        *format_node(view.graph, node, title=_title_group(view, group)),
        *_count_equal(group),
        *([Line("backward raises here", bold=True)] if node.always_raises else []),
        *format_hooks(sites),
        *_name_findings(findings),
    )
    tooltip += tuple(f"{finding.code}: {finding.headline}" for finding in findings[:_MOST_LINES])
    cluster = view.cluster_key(group.home)
    return Box(group.key, theme.NODE_LOOKS[node.kind], lines, tooltip, cluster, identity, group.times, findings)


def _list_findings(view: View, group: Group) -> tuple[Remark, ...]:
    """What rules say of the nodes in a box, each once."""
    found = (finding for node in group.nodes for finding in view.findings.get(node, ()))
    return tuple(dict.fromkeys(Remark(finding.code, escape_unprintable(finding.headline)) for finding in found))


def _name_findings(findings: Iterable[Remark]) -> Iterator[Line]:
    codes = list(dict.fromkeys(finding.code for finding in findings))
    if codes:
        yield Line(" · ".join(codes))


def _title_group(view: View, group: Group) -> str | None:
    """The names of equal leaves, or the name that a leaf has in each of the equal modules around it."""
    names = [view.graph.nodes[node].variable for node in group.nodes]
    if len(names) == 1 or names[0] is None:
        return None
    if group.times == 1:
        return escape(_shorten_name(view, view.graph.nodes[group.shown].variable or "", group.home))
    return _join_names(escape(name) for name in names if name is not None)


def _count_equal(group: Group) -> Iterator[Line]:
    if group.times > 1:
        yield Line(f"× {group.times:,}, equal")


def _format_home(view: View, node: Node) -> Iterator[Line]:
    home = view.homes[node.id]
    if home is not None:
        call = view.graph.calls_by_id[home]
        yield Line(format_place(call, times=view.graph.calls_per_module[call.path]))


def _make_group_box(view: View, group: Group) -> Box:
    """The box of a closed module, or of nodes that are drawn as one without being equal."""
    graph, findings = view.graph, _list_findings(view, group)
    calls = [graph.calls_by_id[call] for call in group.calls]
    sites = [site for node in group.nodes for site in graph.sites_by_node.get(node, ())]
    if group.kind == "module":
        title = _title_calls(view, group.calls, group.home, times=group.times)
        notes = list(_note_calls(graph, group.calls, times=group.times))
        tooltip = list(_describe_calls(graph, calls[0], group.calls))
        identity = identify_call(calls[0])
    else:
        title = _title_part(group, calls)
        notes = [count_noun(len(calls), "module call")] if calls else []
        tooltip, identity = [], _identify_node(view, graph.nodes[group.shown])._replace(kind=group.kind)
    tooltip += _cut([escape(graph.nodes[node].label) for node in group.nodes])
    copies = _count_copies(view, group.home)
    notes += _count_contents(graph, group, copies)
    return Box(
        key=group.key,
        look=theme.COLLAPSED,
        lines=(
            Line(title, bold=True),
            Line(" · ".join(notes)),
            *([Line(_list_functions(graph, group, copies))] if group.kind != "module" else []),
            *([Line("backward raises inside", bold=True)] if _raises_inside(graph, group) else []),
            *format_hooks(sites),
            *_name_findings(findings),
        ),
        tooltip=(*tooltip, *(f"{finding.code}: {finding.headline}" for finding in findings[:_MOST_LINES])),
        cluster=view.cluster_key(group.home),
        identity=identity,
        times=group.times,
        findings=findings,
    )


def _raises_inside(graph: BackwardGraph, group: Group) -> bool:
    return any(graph.nodes[node].always_raises for node in group.nodes)


def _title_part(group: Group, calls: Sequence[ModuleCall]) -> str:
    paths = list(dict.fromkeys(title_call(call) for call in calls))
    if len(paths) > 1:
        return f"{paths[0]} … {paths[-1]}"
    return paths[0] if paths else "nodes in a row" if group.kind == "row" else "nodes near each other"


def _count_contents(graph: BackwardGraph, group: Group, copies: int) -> Iterator[str]:
    """How many nodes and leaves there are, of equal ones in each."""
    leaves = sum(graph.nodes[node].kind.is_leaf for node in group.nodes)
    equal = len(group.calls) if group.kind == "module" else copies
    each = " each" if group.times > 1 else ""
    if len(group.nodes) > leaves or not leaves:
        yield count_noun((len(group.nodes) - leaves) // equal, "node", zero="0") + each
    if leaves:
        yield count_noun(leaves // equal, "leaf", plural="leaves") + each


def _count_copies(view: View, frame: str | None) -> int:
    """How many equal calls the frame of a call stands for."""
    return 1 if frame is None else len(view.folding.frames[frame].calls)


def _list_functions(graph: BackwardGraph, group: Group, copies: int) -> str:
    """The functions of the nodes in it, the most frequent first."""
    names = Counter(escape(graph.nodes[node].short_name) for node in group.nodes if not graph.nodes[node].kind.is_leaf)
    most = [(name, count // copies) for name, count in names.most_common(_MOST_FUNCTIONS)]
    parts = [name if count == 1 else f"{count:,} {name}" for name, count in most]
    return ", ".join([*parts, *(["…"] if len(names) > _MOST_FUNCTIONS else [])])


_MOST_FUNCTIONS = 2


def _cut(lines: Sequence[str]) -> list[str]:
    """The first of many lines of a tooltip, and how many more there are."""
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"and {more:,} more"] if more > 0 else [])]


_MOST_LINES = 12


def _title_calls(view: View, calls: Sequence[str], around: str | None, *, times: int) -> str:
    """The path of a module, of equal modules the first and the last; in a frame for equal ones the path in each of them."""
    graph = view.graph
    if times == 1 and len(calls) > 1:
        shown = view.folding.shown_calls.get(calls[0], calls[0])
        return shorten(escape(_shorten_name(view, graph.calls_by_id[shown].path, around)), NAME_WIDTH)
    return _join_names(dict.fromkeys(title_call(graph.calls_by_id[call]) for call in calls))


def _join_names(names: Iterable[str]) -> str:
    """One name for those that differ in a number: ``layers.0 … layers.11``, or, with gaps, ``layers.0 to 4 and 6 to 11``."""
    ordered = sorted(set(names), key=_split_numbers)
    first, last = ordered[0], ordered[-1]
    if len(ordered) == 1:
        return first
    split = [re.split("([0-9]+)", name) for name in ordered]
    places = [place for place, parts in enumerate(zip(*split, strict=False)) if len(set(parts)) > 1]
    differing = [parts[places[0]] for parts in split] if len(places) == 1 else []
    numbers = [int(part) for part in differing if part.isdecimal()]  # a name that was cut may differ elsewhere
    if len(numbers) == len(ordered) and numbers[-1] - numbers[0] + 1 != len(numbers):
        text = f"{''.join(split[0][: places[0]])}{format_ranges(numbers)}{''.join(split[0][places[0] + 1 :])}"
        return text if len(text) <= NAME_WIDTH else f"{len(ordered):,} of {first} … {last}"
    return f"{first} … {last}"


def _shorten_name(view: View, name: str, around: str | None) -> str:
    """A name as it is in each of the equal modules around it."""
    repeated = [call for call in view.lineages.get(around or "", ()) if view.folding.frames[call].times > 1]
    return name.removeprefix(f"{view.graph.calls_by_id[repeated[-1]].path}.") if repeated else name


def _split_numbers(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in texts by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", text)]


def _note_calls(graph: BackwardGraph, calls: Sequence[str], *, times: int) -> Iterator[str]:
    """The module's type, which of its calls these are where there are several, and how many equal ones are drawn as one."""
    first = graph.calls_by_id[calls[0]]
    if len(calls) == 1:
        yield from note_call(first, times=graph.calls_per_module[first.path])
        return
    if first.path:
        yield shorten(escape(first.type_name), PART_WIDTH)
    same = {graph.calls_by_id[call].path for call in calls} == {first.path}
    if same:
        indices = sorted(graph.calls_by_id[call].index for call in calls)
        yield f"calls {format_ranges(indices)} of {graph.calls_per_module[first.path]}"
    if times > 1:
        yield f"× {times:,}, equal"


def _describe_calls(graph: BackwardGraph, shown: ModuleCall, calls: Sequence[str]) -> Iterator[str]:
    yield from describe_call(graph, shown)
    if len(calls) > 1:
        yield "drawn for the equal calls:"
        yield from _cut([escape(call) for call in calls])


def make_call_box(
    graph: BackwardGraph, call: ModuleCall, key: str, cluster: str | None, sites: Iterable[HookSite], content: str
) -> Box:
    """The box of a module call whose inside is not drawn; `content` says how much that is."""
    notes = [*note_call(call, times=graph.calls_per_module[call.path]), content]
    return Box(
        key=key,
        look=theme.COLLAPSED,
        lines=(Line(title_call(call), bold=True), Line(" · ".join(notes)), *format_hooks(sites)),
        tooltip=tuple(describe_call(graph, call)),
        cluster=cluster,
        identity=identify_call(call),
    )


def _make_dead_end(view: View, group: Group) -> Box:
    node = view.graph.nodes[group.shown]
    reasons = dict.fromkeys(node.edges[index].null_reason or "" for index in _find_dead_ends(view, group))
    return Box(
        key=_dead_end_key(node.id),
        look=theme.NO_GRADIENT,
        lines=tuple(_name_dead_ends(view, node, _find_dead_ends(view, group))),
        tooltip=tuple(escape(reason) for reason in reasons if reason) or (theme.NO_GRADIENT.meaning,),
        cluster=view.cluster_key(group.home),
        identity=_identify_node(view, node)._replace(kind="dead end"),
    )


def _name_dead_ends(view: View, node: Node, edges: Iterable[int]) -> Iterator[Line]:
    """The names of the tensors that need no gradient, where all of them are known."""
    names = [format_expression(view.graph, node.edges[index], call=node.call) for index in edges]
    known = [name for name in dict.fromkeys(names) if name is not None]
    if len(known) == len(set(names)) and len(known) <= _MOST_DEAD_ENDS:
        yield from (Line(shorten(name, PART_WIDTH)) for name in known)
    yield Line("needs no gradient" if len(known) < 2 else "need no gradient")  # noqa: PLR2004


_MOST_DEAD_ENDS = 3


# Arrows


def _make_arrows(view: View) -> tuple[Arrow, ...]:
    """Every arrow: from the roots, between the nodes, and to where no gradient goes on."""
    return (*_make_root_arrows(view), *_make_link_arrows(view), *_make_dead_end_arrows(view))


def _make_root_arrows(view: View) -> Iterator[Arrow]:
    for rank, roots in _group_roots(view):
        heads: dict[str, list[Root]] = {}
        for root in roots:
            heads.setdefault(view.key(root.node), []).append(root)
        for head, group in heads.items():
            shapes = [view.graph.nodes[root.node].grad_outputs[root.slot].shape for root in group]
            lines = tuple(format_root(view.graph, group[0]) if len(group) == 1 else _list_shapes(shapes))
            yield Arrow(_root_key(rank), head, lines, (theme.ROOT.meaning,), Flow.GRADIENT, gradients=len(group))


def _make_link_arrows(view: View) -> Iterator[Arrow]:
    bundles: dict[tuple[str, str, bool], list[Link]] = {}
    for link in view.scope.links:
        tail, head, loop = view.key(link.tail), view.key(link.head), view.leads_on(link.tail, link.head)
        if tail != head or loop:
            bundles.setdefault((tail, head, loop), []).append(link)
    for (tail, head, loop), links in bundles.items():
        if len(links) > 1 and any(_stands_for_several(view, link) for link in links):
            yield from _make_bundles(view, tail, head, links, loop=loop)
        else:
            yield from (_make_arrow(view, tail, head, link, loop=loop) for link in links)


def _stands_for_several(view: View, link: Link) -> bool:
    return any(view.group(node).kind != "node" or view.is_repeated(node) for node in (link.tail, link.head))


def _make_bundles(view: View, tail: str, head: str, links: list[Link], *, loop: bool) -> Iterator[Arrow]:
    """One arrow for all links between two boxes; between two nodes drawn for equal ones one for each of their edges."""
    kinds = {view.group(link.tail).kind for link in links} | {view.group(link.head).kind for link in links}
    if kinds != {"node"}:
        yield _make_bundle(view, tail, head, links, loop=loop)
        return
    alike: dict[Hashable, list[Link]] = {}
    for link in links:
        edge = None if link.edge is None else view.graph.nodes[link.tail].edges[link.edge]
        name = None if edge is None else edge.group or edge.argument
        alike.setdefault((name, None if edge is None else edge.input_nr), []).append(link)
    for equal in alike.values():
        arrow = _make_bundle(view, tail, head, equal, loop=loop)
        text = tuple(_format_link(view, equal[0]))
        edge = None if equal[0].edge is None else view.graph.nodes[equal[0].tail].edges[equal[0].edge]
        if len(equal) > 1 and edge is not None and edge.group is not None:
            text = (shorten(escape(edge.group), PART_WIDTH), *text[1:])
        yield arrow._replace(lines=(*text, *_count_in_frame(view, equal)))


def _count_in_frame(view: View, links: Sequence[Link]) -> Iterator[str]:
    """How many gradients an arrow stands for, where that is not one in each of the equal ones around it."""
    tail, head = view.group(links[0].tail), view.group(links[0].head)
    if len(links) > 1 and not len(links) == len(tail.nodes) == len(head.nodes):
        yield f"× {len(links):,}"


def _make_bundle(view: View, tail: str, head: str, links: list[Link], *, loop: bool) -> Arrow:
    tooltip = _cut([line for link in links[: _MOST_LINES + 1] for line in _describe_link(view, link)])
    flow = pick_strongest(*(link.flow for link in links))
    shapes = [] if any(link.edge is None for link in links) else [_find_shape(view, link) for link in links]
    lines = tuple(_list_shapes(shapes, copies=1 if loop else _count_around(view, links[0])))
    return Arrow(tail, head, lines, tuple(tooltip), flow, gradients=len(links), loop=loop)


def _find_shape(view: View, link: Link) -> Shape | None:
    """The shape of the gradient that goes along a link between two nodes."""
    edge = view.graph.nodes[link.tail].edges[link.edge or 0]
    return view.graph.nodes[link.head].grad_outputs[edge.input_nr].shape


def _count_around(view: View, link: Link) -> int:
    """How many equal calls the innermost frame around both ends stands for."""
    tail, head = (view.lineages.get(view.group(node).home or "", ()) for node in (link.tail, link.head))
    common = scope.find_common_calls(tail, head)
    return _count_copies(view, common[-1]) if common else 1


def _list_shapes(shapes: Iterable[Shape | None], *, copies: int = 1) -> Iterator[str]:
    """How many gradients of which shapes, the most frequent first; in each of equal calls, where it is as many in each."""
    counts = Counter(shapes).most_common()
    if all(count % copies == 0 for _, count in counts):
        counts = [(shape, count // copies) for shape, count in counts]
    for shape, count in counts[:_MOST_SHAPES]:
        yield f"{count:,} × {format_shape(shape)}" if count > 1 else format_shape(shape)
    rest = sum(count for _, count in counts[_MOST_SHAPES:])
    if rest:
        yield f"and {rest:,} of other shapes"


_MOST_SHAPES = 3


def _make_arrow(view: View, tail: str, head: str, link: Link, *, loop: bool) -> Arrow:
    lines, tooltip = tuple(_format_link(view, link)), tuple(_describe_link(view, link))
    return Arrow(tail, head, lines, tooltip, link.flow, loop=loop)


def _format_link(view: View, link: Link) -> Iterator[str]:
    if link.edge is None:
        yield f"{count_noun(link.between, 'node')} between"
        return
    edge = view.graph.nodes[link.tail].edges[link.edge]
    # an argument is its node's: without the node in sight its name says nothing
    closed = view.group(link.tail).kind != "node"
    yield from (format_edge_shape if closed else format_edge)(view.graph, edge)


def _describe_link(view: View, link: Link) -> Iterator[str]:
    if link.edge is None:
        yield from _format_link(view, link)
    else:
        yield from describe_edge(view.graph.nodes[link.tail], link.edge)


def _make_dead_end_arrows(view: View) -> Iterator[Arrow]:
    for group in view.folding.groups.values():
        node = view.graph.nodes[group.shown]
        for index in _find_dead_ends(view, group) if group.kind == "node" else ():
            lines = tuple(format_edge(view.graph, node.edges[index]))
            tooltip = tuple(describe_edge(node, index))
            flow = FLOW_OF_STATUS[view.predictions[node.id].grad_inputs[index]]
            yield Arrow(group.key, _dead_end_key(node.id), lines, tooltip, flow, gradients=len(group.nodes))


# The headline


def _format_headline(view: View) -> Iterator[str]:
    """What the picture is of, and how it is read."""
    graph = view.graph
    yield " · ".join(_list_headline_parts(graph, len(view.scope.nodes)))
    yield "Backward runs from the roots at the top down to the leaves."
    yield from _tell_folding(view)
    yield f"roots: {shorten(escape_unprintable(graph.info.root_rule), _HEADLINE_WIDTH)}"
    call = format_backward_call(graph.info.backward)
    if call:
        yield f"predicted for {shorten(call, _HEADLINE_WIDTH)}"
    placed = {site.hook.id for site in graph.sites if site.node is not None}
    yield from list_hooks_left_out(graph, placed, where="on no node of this graph")


def _tell_folding(view: View) -> Iterator[str]:
    """What shares a box, and how to see it."""
    groups = view.folding.groups.values()
    closed = [group for group in groups if group.kind == "module"]
    counts = (
        (len({view.graph.calls_by_id[call].path for group in closed for call in group.calls}), "module", "closed"),
        (sum(group.kind == "row" for group in groups), "row", "of nodes drawn as one box"),
        (sum(group.kind == "part" for group in groups), "part", "of the graph drawn as one box"),
        (sum(frame.times > 1 for frame in view.folding.frames.values()), "frame", "drawn for equal module calls"),
        (sum(group.kind == "node" and group.times > 1 for group in groups), "box", "drawn for equal nodes"),
    )
    parts = [
        f"{count_noun(count, noun, plural='boxes' if noun == 'box' else None)} {words}"
        for count, noun, words in counts
        if count
    ]
    path = next((view.graph.calls_by_id[group.calls[0]].path for group in closed if group.calls), None)
    how = (
        f"--expand {shorten(escape(path), PART_WIDTH)} opens one, --all everything"
        if path
        else "--all opens everything"
    )
    if parts:
        yield f"Folded: {', '.join(parts)}; {how}"


def _list_headline_parts(graph: BackwardGraph, shown: int) -> Iterator[str]:
    outermost = next((call for call in graph.calls if call.parent is None), None)
    yield f"Backward graph of {shorten(escape(outermost.type_name), PART_WIDTH)}" if outermost else "Backward graph"
    nodes = count_noun(len(graph.nodes), "node", zero="0")
    yield nodes if shown == len(graph.nodes) else f"{shown:,} of {nodes}"
    if graph.hooks:
        yield count_noun(len(graph.hooks), "hook")
    yield f"emulated {escape(graph.info.device)}" if graph.info.emulated else escape(graph.info.device)

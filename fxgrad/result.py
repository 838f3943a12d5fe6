"""What the verbs return: a Trace, and what it answers when it is asked. No torch: a saved trace answers as well."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Explanation, HookKind, HookSite, ModuleCall
from fxgrad.graph.backward_graph import find_result
from fxgrad.graph.lookup import find_hook_kind, find_module_path
from fxgrad.graph.text import escape

if TYPE_CHECKING:
    import networkx
    import torch
    from rich.console import RenderableType

    from fxgrad.render.document import Document
    from fxgrad.render.pictures.parts import Picture

_NO_FORWARD = (
    "the recorded forward holds functions of the process that traced it, so a saved or captured trace has none"
)


@dataclass(frozen=True)
class Answer:
    """A text with the findings in it. ``str()`` is plain; on a terminal rich shows it, in a notebook as HTML.

    ``graph``     what the text is about
    ``findings``  what the rules say
    ``document``  the text before it has a form: `fxgrad.render.document`
    """

    graph: BackwardGraph
    findings: tuple[Explanation, ...]
    document: Document = field(repr=False)

    def __str__(self) -> str:
        from fxgrad.render.document import format_document

        return format_document(self.document)

    def __rich__(self) -> RenderableType:
        from fxgrad.render.document import render_document

        return render_document(self.document)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_json(self) -> str:
        """The findings with their sites, as JSON text: a list of the Explanation records' fields."""
        from fxgrad.exchange.saved import records_to_json

        return records_to_json(self.findings)


class Explanations(Answer):
    """What `Trace.explain` answers: each hook, its node, what it gets there and why, and the rules' findings."""


class Report(Answer):
    """What `Trace.report` answers: everything that is known of a graph, as one text."""


@dataclass(frozen=True)
class Order(Answer):
    """What `Trace.order` answers: every call of a hook, in order, across all nodes.

    ``calls``  the sites as their hooks are called; one whose hook is called twice is there twice. Where
               ``site.fires`` is None the hook is called there, if at all
    """

    calls: tuple[HookSite, ...]

    def to_json(self) -> str:
        """The calls, as JSON text: a list of the HookSite records' fields."""
        from fxgrad.exchange.saved import records_to_json

        return records_to_json(self.calls)


@dataclass(frozen=True)
class Probe:
    """What `fxgrad.probe` answers: what a hook would get, had it been registered before forward, and what it would
    change.

    ``sites``    the sites that the hook would have, one a call, in firing order
    ``moved``    the sites of other hooks that it would change, each as it is and as it would be
    ``zeros``    names of the leaves that would get a gradient of zeros, where they get None without the hook
    ``refused``  what PyTorch raises, when the hook is registered or in forward; then there are no sites. None where it
                 raises nothing
    ``explanations``  the hook in words, with what the rules say; its ``graph`` is the one with the hook, or where that
    is
                 refused the one without
    """

    sites: tuple[HookSite, ...]
    moved: tuple[tuple[HookSite, HookSite], ...]
    zeros: tuple[str, ...]
    refused: str | None
    explanations: Explanations = field(repr=False)

    def __str__(self) -> str:
        return str(self.explanations)

    def _repr_html_(self) -> str:
        return self.explanations._repr_html_()


class Trace:
    """A backward graph, the hooks on it, and what each of them will get.

    ``graph`` is the `BackwardGraph`; it holds no tensor, no node and no module. A module argument is a dotted path,
    ``layers[3]``, or, in the process that traced it, the module itself.
    """

    def __init__(
        self,
        graph: BackwardGraph,
        *,
        forward: Any = None,
        path_of_module: Callable[[object], str | None] | None = None,
        name_of_tensor: Callable[[object], str | None] | None = None,
    ) -> None:
        self.graph = graph
        self._forward = forward
        self._path_of_module = path_of_module
        self._name_of_tensor = name_of_tensor

    def __str__(self) -> str:
        return str(self.graph)

    def __repr__(self) -> str:
        graph = self.graph
        return f"<fxgrad.Trace: {len(graph.nodes)} nodes, {len(graph.calls)} module calls, {len(graph.hooks)} hooks>"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def _repr_svg_(self) -> str:
        return self.draw()

    @property
    def calls(self) -> tuple[ModuleCall, ...]:
        """The module calls, in the order in which they start; empty for a capture."""
        return self.graph.calls

    @property
    def sites(self) -> tuple[HookSite, ...]:
        """Every site of every hook, in predicted firing order; those that do not fire come last."""
        return self.graph.sites

    def sites_of(self, module: Any = None, kind: HookKind | str | None = None) -> tuple[HookSite, ...]:
        """The sites of the hooks owned by a module, or of one kind, or both; in firing order.

        A global hook's sites belong to the modules at whose calls it sits, those of a hook on a module's result to that
        module.
        """
        path = None if module is None else self._find_path(module)
        wanted = None if kind is None else find_hook_kind(kind)
        return tuple([site for site in self.sites if self._is_at(site, path) and wanted in (None, site.hook.kind)])

    def _is_at(self, site: HookSite, path: str | None) -> bool:
        if path is None:
            return True
        if site.call is not None:
            return self.graph.calls_by_id[site.call].path == path
        result = find_result(self.graph, site.hook)
        if result is not None:
            return result[0].path == path
        return site.hook.kind.is_module and not site.hook.kind.is_global and site.hook.owner == path

    def _find_path(self, module: Any) -> str:
        if isinstance(module, str):
            return find_module_path(self.graph, module)
        path = None if self._path_of_module is None else self._path_of_module(module)
        if path is None:
            raise UsageError(
                f"a {escape(type(module).__name__)} as the module",
                "a dotted path, or a module of the model in the process that traced it",
                "a path such as " + ", ".join(m.path or '""' for m in self.graph.modules[:3]),
            )
        return path

    def predict(
        self,
        *,
        inputs: Any = None,
        api: Literal["backward", "grad"] = "backward",
        roots: Any = None,
        after: Literal["retained", "freed"] | None = None,
    ) -> Trace:
        """The same trace, with its sites predicted for another way of calling backward.

        ``inputs``  what ``backward(inputs=...)`` or ``autograd.grad(outputs, inputs)`` gets: names of parameters and
                    inputs, nodes' labels with a slot (``UnbindBackward0_0[1]``), or, in the process that traced them,
                    such tensors themselves; one, or a list
        ``api``     "grad" for ``torch.autograd.grad``
        ``roots``   what backward starts from instead of every root found, in that order: ``result[1]``, or as `inputs`
        ``after``   this is the second of two such calls; the first was with ``retain_graph=True`` ("retained") or
                    without ("freed", after which it is unknown how far backward gets)

        The other arguments of such a call change nothing for hooks: ``gradient`` (cast to the root's dtype first),
        ``create_graph``, ``retain_graph``, and ``allow_unused`` and ``materialize_grads`` of ``autograd.grad``, which
        looks at them when backward is over (torch/csrc/autograd/python_engine.cpp).

        Raises UsageError for unknown names, with the nearest ones, and for what PyTorch refuses.

        >>> import torch, fxgrad
        >>> model = torch.nn.Linear(10, 20)
        >>> handle = model.bias.register_hook(lambda grad: None)
        >>> trace = fxgrad.trace(model, torch.randn(8, 10))
        >>> trace.predict(inputs="weight").sites[0].fires, trace.predict(inputs=[model.bias]).sites[0].fires
        (False, True)
        """
        from fxgrad.predict import predict, set_backward_call

        names = None if inputs is None else self._name_tensors(inputs, "inputs")
        starts = None if roots is None else self._name_tensors(roots, "roots")
        graph = predict(set_backward_call(self.graph, inputs=names, api=api, roots=starts, after=after))
        return Trace(
            graph,
            forward=self._forward,
            path_of_module=self._path_of_module,
            name_of_tensor=self._name_of_tensor,
        )

    def _name_tensors(self, given: Any, what: str) -> list[str]:
        return [self._name_tensor(each, what) for each in (given if isinstance(given, (list, tuple)) else [given])]

    def _name_tensor(self, tensor: Any, what: str) -> str:
        name = tensor if isinstance(tensor, str) or self._name_of_tensor is None else self._name_of_tensor(tensor)
        if not isinstance(name, str):
            raise UsageError(
                f"a {escape(type(tensor).__name__)} in {what} that this trace cannot name",
                "variable names, node labels, or (in the process that traced them) parameters and inputs",
                "its node's label with the slot, as trace.graph prints it: UnbindBackward0_0[1]",
            )
        return name

    def explain(self, module: Any = None, *, all_hooks: bool = False) -> Explanations:
        """Explain the hooks at a module, or all: the node of each, what it gets there and why, and the fix.

        Hooks that PyTorch registers for itself, such as Dynamo's and FSDP's, are only counted, unless `all_hooks`. What a
        hook that is not there would get, `fxgrad.probe` tells. Raises UsageError for an unknown module.
        """
        from fxgrad.render.explain import compose_explanation
        from fxgrad.rules import explain

        path = None if module is None else self._find_path(module)
        findings = explain(self.graph, unasked=True)
        if path is not None:
            findings = tuple(
                [finding for finding in findings if finding.site is not None and self._is_at(finding.site, path)]
            )
        return Explanations(
            self.graph, findings, compose_explanation(self.graph, findings, module=path, all_hooks=all_hooks)
        )

    def order(self, module: Any = None, *, all_hooks: bool = False) -> Order:
        """The order of hook calls: nodes as the engine runs them, and the hooks at each node as PyTorch calls them.

        At one node (torch/csrc/autograd/engine.cpp), tensor hooks come first, by tensor and registration, then
        retain_grad and prehooks, and after the node has run post-accumulate hooks and post-hooks. Global module hooks
        come before a module's own, of which those with ``prepend=True`` come first. With `module`, only the calls of
        its hooks, numbered among all calls. If several devices take part, a note says that there is no order between
        them. The text leaves out hooks of PyTorch itself, unless `all_hooks`; ``calls`` has them all.

        Raises UsageError for an unknown module.
        """
        from fxgrad.render.report import compose_order

        path = None if module is None else self._find_path(module)
        wanted = partial(self._is_at, path=path)
        calls = tuple([site for site in self.graph.sites if site.order is not None and wanted(site)])
        return Order(self.graph, (), compose_order(self.graph, wanted=wanted, all_hooks=all_hooks), calls)

    def report(self, *, all_hooks: bool = False) -> Report:
        """The full report: how the graph was made, hooks, firing order, findings, and parameters without grad.

        Hooks of PyTorch itself are only counted, unless `all_hooks`.
        """
        from fxgrad.render.report import compose_report
        from fxgrad.rules import explain

        findings = explain(self.graph, unasked=True)
        return Report(self.graph, findings, compose_report(self.graph, findings, all_hooks=all_hooks))

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        depth: int | None = None,
        hooks_only: bool = False,
        module: Any = None,
        expand: Any = (),
        all: bool = False,  # the word of the command line
        forward: bool = False,
        both: bool = False,
        timeout: float | None = 10.0,
        link_base: str | None = None,
    ) -> str:
        """Draw the graph, with the hooked nodes coloured. Returns the SVG text; with a path ending in .svg, .png, .pdf
        or .dot, writes that file and returns its path.

        A small graph is drawn whole. Of a larger one, equal modules and steps are drawn once with their number, then modules
        are closed until the picture can be read; those with hooks, and what lies between them and the roots, stay open as
        long as that fits. ``expand`` is a module to open, or a list of them, ``all`` draws everything. ``depth`` closes
        modules nested deeper, whatever that makes, ``hooks_only`` keeps only nodes with hooks, ``module`` only one module's
        part.

        ``forward`` draws the recorded forward instead, with its hooked modules coloured. ``both`` draws them side by side,
        with each call joined to the node where its backward begins.

        A layout that takes more than ``timeout`` seconds is left, and more modules are closed, which the picture says; None
        waits for ever. In an SVG, what comes from a line of a file links to it below the address ``link_base``.

        Raises UsageError for an unknown format, an unknown
        module, contradicting options, without a recorded forward, and for ``both`` of a graph too large to follow;
        OutputError if the file cannot be drawn or written.
        """
        from fxgrad.render.drawing.engine import LayoutTooSlow
        from fxgrad.render.drawing.layout import draw_picture, say_closed
        from fxgrad.render.files import find_format, write_file

        kind = "svg" if path is None else find_format(path)
        inside = None if module is None else self._find_path(module)
        opened = expand if isinstance(expand, (list, tuple)) else [expand]
        paths = tuple(self._find_path(each) for each in opened)
        compose = partial(self._compose, module=inside, hooks_only=hooks_only, forward=forward, both=both)
        drawn = compose(depth=depth, expand=paths, everything=all)
        try:
            content = draw_picture(drawn, kind, timeout=timeout, link_base=link_base)
        except LayoutTooSlow as error:
            closed = compose(depth=None if all or depth or paths else 0, expand=(), everything=False)
            content = draw_picture(say_closed(closed, error), kind, timeout=timeout, link_base=link_base)
        if path is None:
            return content.decode()
        write_file(content, path)
        return os.fspath(path)

    def _compose(
        self,
        *,
        module: str | None,
        hooks_only: bool,
        depth: int | None,
        expand: Sequence[str],
        everything: bool,
        forward: bool,
        both: bool,
    ) -> Picture:
        from fxgrad.render.pictures.forward import compose_both, compose_forward
        from fxgrad.render.pictures.picture import compose_picture

        if forward and both:
            raise UsageError("forward with both", "one of them", "both, which draws the forward too")
        if not forward and not both:
            return compose_picture(
                self.graph, module=module, hooks_only=hooks_only, depth=depth, expand=expand, everything=everything
            )
        for name, given in (("hooks_only", hooks_only), ("expand", expand), ("all", everything)):
            if given:
                raise UsageError(
                    f"{name} with {'both' if both else 'forward'}",
                    f"{name} for the backward graph alone",
                    "depth or module, for a smaller picture",
                )
        return (compose_both if both else compose_forward)(self.graph, module=module, depth=depth)

    def to_networkx(self) -> networkx.MultiDiGraph[int]:
        """The graph for networkx: nodes by id, with the records' fields as attributes; one edge per gradient."""
        from fxgrad.exchange.networkx_graph import to_networkx

        return to_networkx(self.graph)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The whole trace as JSON text, which `fxgrad.load` reads without torch; with a path, writes that file."""
        from fxgrad.exchange.saved import to_json

        return _write_text(to_json(self.graph), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None, *, all_hooks: bool = False) -> str:
        """The report as GitHub-flavoured Markdown; with a path, writes that file and returns its path."""
        from fxgrad.render.markdown import format_markdown

        return _write_text(format_markdown(self.report(all_hooks=all_hooks).document, title="Backward graph"), path)

    @property
    def forward(self) -> torch.fx.Graph:
        """The run as a ``torch.fx.Graph``, in the process that traced it.

        Each ``call_function`` and ``call_method`` has ``nn_module_stack``, ``stack_trace``, ``tensor_meta`` and
        ``sequence_window`` (the autograd sequence numbers before and after) in its ``meta``. What is not a tensor is a
        constant of that run: sizes, ``item()``, and what numpy or the program's control flow made of the values.

        >>> import torch, fxgrad
        >>> print(fxgrad.trace(torch.nn.Linear(3, 2), (torch.ones(3),)).forward)
        graph():
            %input_1 : [num_users=1] = placeholder[target=input]
            %weight : [num_users=1] = get_attr[target=weight]
            %bias : [num_users=1] = get_attr[target=bias]
            %linear : [num_users=1] = call_function[target=torch._C._nn.linear](args = (%input_1, %weight, %bias), \
kwargs = {})
            return linear
        """
        graph: torch.fx.Graph = self._require_forward("forward").graph
        return graph

    def forward_module(self, model: torch.nn.Module) -> torch.fx.GraphModule:
        """A GraphModule that runs the recorded forward again with the parameters of `model`. It does not modify
        `model`: what the run would change is copied.

        With the same arguments, in the same modes (autocast, grad mode, default dtype) and with the same random state
        it returns what the model returned. A tensor that forward uses and that is not a parameter, buffer or argument
        is a constant of the GraphModule: the tensor itself, not a copy. If the program modifies it in place after the
        run, the GraphModule computes with the new value.

        Raises UsageError for a model without one of the parameters, and with the reason for a forward that a graph
        cannot express: it sets random states itself (dropout does not), switches modes other than grad mode, changes a
        constant in place, or passes or returns functions and objects that may hold tensors.

        >>> import torch, fxgrad
        >>> model, x = torch.nn.Linear(3, 2), torch.ones(3)
        >>> torch.equal(fxgrad.trace(model, (x,)).forward_module(model)(x), model(x))
        True
        """
        module: torch.fx.GraphModule = self._require_forward("forward_module").module(model)
        return module

    def _require_forward(self, what: str) -> Any:
        if self._forward is None:
            raise UsageError(
                f"{what} of a trace without a recorded forward: {_NO_FORWARD}",
                "a trace made by fxgrad.trace or fxgrad.record in this process",
                "trace the model again",
            )
        return self._forward


def _write_text(text: str, path: str | os.PathLike[str] | None) -> str:
    """The text, or with a path the path of the file that now holds it."""
    if path is None:
        return text
    from fxgrad.render.files import write_file

    write_file(text.encode(errors="backslashreplace"), path)
    return os.fspath(path)


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace saved with `Trace.to_json`. Needs no torch and no model, and unpickles nothing.

    Raises UsageError if the file cannot be read, is not a saved trace, or has another version.
    """
    from fxgrad.exchange.saved import from_json

    shown = os.fspath(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(
            f"cannot read {shown}: {error.strerror}", "a file written by Trace.to_json or --json", "check the path"
        ) from error
    return Trace(from_json(text, origin=shown))

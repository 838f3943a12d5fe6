"""The verbs that need torch: trace, probe, record, capture, verify, and the same for a TARGET of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fxgrad.errors import NothingRequiresGradError, TargetError, UsageError
from fxgrad.graph import BackwardGraph, Explanation, HookKind, HookSite
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.graph.lookup import find_hook_kind
from fxgrad.predict import predict, set_backward_call, without_compiled_code
from fxgrad.result import Explanations, Probe, Trace, load

if TYPE_CHECKING:
    import torch

    from fxgrad.observe.execution import CompiledRun, Executed
    from fxgrad.observe.run import ModelRun, TracedRun
    from fxgrad.render.findings import Finding
    from fxgrad.target_options import TargetOptions
    from fxgrad.verification import Verification


def trace(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], Any] | None = None,
    device: str | torch.device | None = None,
) -> Trace:
    """Run ``model(*args, **kwargs)`` once and predict backward: the node of each hook, and what the hook will get.

    Runs no backward. Restores parameters, buffers, module attributes, random states and hook tables;
    `fxgrad.observe.restore` lists it all. A single argument that is not a tuple means ``(argument,)``.

    The roots are the tensor that `loss` returns for the output; without it a scalar ``loss`` in the output (Hugging
    Face models), else every differentiable tensor of the output. ``device="cuda"`` without CUDA traces on an emulated
    accelerator, in a forked child, to see the fused kernels.

    Of an ExportedProgram its ``module()`` is traced; calls of a torch.fx.GraphModule have the names of its graph's nodes.

    Raises UsageError for lazy modules and for what is not a module; TargetError if forward raises or nothing requires
    grad.

    >>> import torch, fxgrad
    >>> model = torch.nn.Linear(10, 20)
    >>> handle = model.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    >>> trace = fxgrad.trace(model, torch.randn(8, 10, requires_grad=True))
    >>> [(gradient.argument, gradient.shape) for gradient in trace.sites[0].grad_input]
    [('input', (8, 10))]
    """
    from fxgrad.observe import run
    from fxgrad.observe.target import devices

    run.check_surroundings()
    runnable = run.unpack_exported(model)
    arguments, keywords = _check_arguments(args, kwargs)
    if devices.needs_emulation(device):
        return _trace_emulated(runnable, arguments, keywords, loss, str(device))
    devices.check_placed(runnable, device)
    with _explain_errors():
        return _make_trace(run.observe_forward(runnable, arguments, keywords, loss=loss), runnable)


def _check_arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise UsageError(
            f"{type(kwargs).__name__} as kwargs",
            "a mapping of keyword arguments, after a tuple of positional ones",
            "trace(model, (x, y), {'mask': mask})",
        )
    return args if isinstance(args, tuple) else (args,), dict(kwargs or {})


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Let the errors that a rule knows say why, and what to do: FXG104, FXG106, FXG108, FXG109, FXG202, FXG203, FXG302, FXG305."""
    try:
        yield
    except NothingRequiresGradError as error:
        from fxgrad.rules.fxg2_gradients import explain_missing_grad  # the rules take a while to be imported

        if not isinstance(error.graph, BackwardGraph):
            raise
        finding = explain_missing_grad(error.graph)
        raise TargetError(f"{error.given}. {finding.because} ({finding.code})", error.allowed, finding.fix) from error
    except TargetError as error:
        from fxgrad.observe.record.frames import format_message
        from fxgrad.rules import explain_error

        known = None if error.__cause__ is None else explain_error(format_message(error.__cause__))
        if known is None:
            raise
        given = f"{error.given}\n{known.because} ({known.code})"
        raise TargetError(given, error.allowed, known.fix, error.details) from error


def _trace_emulated(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Callable[[Any], Any] | None, device: str
) -> Trace:
    from fxgrad.emulated import run_in_fork
    from fxgrad.observe.record.names import TensorNames, make_path_finder, make_tensor_finder
    from fxgrad.observe.run import observe_forward
    from fxgrad.observe.target.devices import run_moved_model

    observe = partial(observe_forward, model, loss=loss)
    graph = run_in_fork(lambda: run_moved_model(model, args, kwargs, observe, device=device).graph, BackwardGraph)
    return Trace(
        predict(graph), path_of_module=make_path_finder(model), name_of_tensor=make_tensor_finder(TensorNames(model))
    )


def _make_trace(traced: TracedRun, model: Any) -> Trace:
    from fxgrad.observe.record.names import make_path_finder

    return Trace(
        predict(traced.graph),
        forward=traced.forward,
        path_of_module=make_path_finder(model),
        name_of_tensor=traced.name_of_tensor,
    )


def probe(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    module: str | torch.nn.Module,
    kind: HookKind | str,
    loss: Callable[[Any], Any] | None = None,
    device: str | torch.device | None = None,
) -> Probe:
    """Run forward without a module hook and with it, to see what it would get and which other hooks it would move.

    `module` is a dotted path, ``layers[3]``, or a module of the model; `kind` is a HookKind, the dotted name of its
    registering function, or an end of that name that no other kind has. With a global kind the hook is on every module
    while forward runs, in other threads too.

    The hook does nothing. It is registered after all others, before forward, and then removed; hook tables, and the
    ``_is_full_backward_hook`` that registering sets (torch/nn/modules/module.py), are restored. Forward runs twice,
    from the same state; see `trace` for what else is restored, and for the other arguments. A hook that PyTorch
    refuses, when it is registered or in forward, is not an error: ``probe.refused`` has PyTorch's message.

    Raises what `trace` raises; UsageError for an unknown module or kind, and for a kind that is not registered on
    modules; TargetError for a forward that cannot be run twice.

    >>> import torch, fxgrad
    >>> model = torch.nn.Linear(10, 20)
    >>> x = torch.randn(8, 10, requires_grad=True)
    >>> probe = fxgrad.probe(model, x, module="", kind="register_full_backward_hook")
    >>> [(gradient.argument, gradient.shape) for gradient in probe.sites[0].grad_input]
    [('input', (8, 10))]
    """
    from fxgrad.observe.probing import observe_with_hook
    from fxgrad.observe.run import check_surroundings, unpack_exported
    from fxgrad.observe.target import devices

    check_surroundings()
    runnable = unpack_exported(model)
    observe = partial(observe_with_hook, runnable, module=module, kind=_find_module_kind(kind), loss=loss)
    arguments, keywords = _check_arguments(args, kwargs)
    if devices.needs_emulation(device):
        from fxgrad.emulated import run_in_fork

        on = str(device)
        probing = partial(devices.run_moved_model, runnable, arguments, keywords, observe, device=on)
        return _make_probe(run_in_fork(probing, ProbeRun))
    devices.check_placed(runnable, device)
    with _explain_errors():
        return _make_probe(observe(arguments, keywords))


def _find_module_kind(kind: HookKind | str) -> HookKind:
    found = find_hook_kind(kind)
    if not found.is_module:
        raise UsageError(
            f"what {found.value} would get",
            f"a hook that is registered on modules: {', '.join(known.value for known in HookKind if known.is_module)}",
            "register it and trace again: such a hook sits where you register it",
        )
    return found


def _make_probe(run: ProbeRun, *, inputs: Sequence[str] | None = None, api: str = "backward") -> Probe:
    from fxgrad.predict.moved import find_moved_sites, find_zero_gradients
    from fxgrad.render.explain import compose_probe
    from fxgrad.rules import explain, explain_error

    run = run.with_graphs(lambda graph: predict(set_backward_call(graph, inputs=inputs, api=api)))
    sites: tuple[HookSite, ...] = ()
    moved: tuple[tuple[HookSite, HookSite], ...] = ()
    zeros: tuple[str, ...] = ()
    findings: tuple[Explanation, ...]
    if run.after is None:
        known = explain_error(run.refused or "")
        findings = () if known is None else (known,)
    else:
        sites = tuple([site for site in run.after.sites if site.hook.id == run.hook.id])
        moved = find_moved_sites(run.before, run.after, run.hook)
        zeros = find_zero_gradients(run.before, run.after)
        findings = tuple([finding for finding in explain(run.after, unasked=True) if finding.site in sites])
    graph = run.after or run.before
    document = compose_probe(graph, run.hook, findings, moved=moved, zeros=zeros, refused=run.refused)
    return Probe(sites, moved, zeros, run.refused, Explanations(graph, findings, document))


class Recording:
    """What `record` yields: `trace` makes a Trace of what ran inside the ``with`` block."""

    def __init__(self, run: ModelRun) -> None:
        self._run: ModelRun | None = run

    def trace(self, loss: Any) -> Trace:
        """The Trace of what was recorded, with backward starting from `loss`: a tensor, or nested outputs.

        Call it once, inside or after the ``with`` block and before ``loss.backward()``: until then the recording keeps
        the tensors of forward alive.
        """
        from fxgrad.observe.run import finish_recording

        if self._run is None:
            raise UsageError(
                "a second trace of one recording",
                "one trace: the recording releases its tensors after that",
                "record forward again",
            )
        run, self._run = self._run, None
        with _explain_errors():
            return _make_trace(finish_recording(run, loss), run.model)


@contextmanager
def record(model: torch.nn.Module) -> Iterator[Recording]:
    """Record your own forward: everything that runs inside the ``with`` block, including the loss.

    Runs and restores nothing: it is your program. Raises UsageError inside another recording.

    >>> import torch, fxgrad
    >>> model = torch.nn.Linear(10, 20)
    >>> with fxgrad.record(model) as recording:
    ...     loss = model(torch.randn(8, 10)).sum()
    >>> len(recording.trace(loss).graph.nodes)
    5
    """
    from fxgrad.observe.hooks.registrations import RegistrationWatch
    from fxgrad.observe.run import check_model, check_surroundings, claim_process, record_run

    check_surroundings()
    check_model(model)
    with claim_process(), record_run(model, watch=RegistrationWatch()) as run:
        yield Recording(run)


def capture(outputs: Any, model: torch.nn.Module | None = None, *, node_hooks: bool = False) -> Trace:
    """The graph behind existing tensors; runs nothing.

    It has no module calls and no source lines, as forward is over. `model` gives names to parameters and shows the
    hooks on modules. Hooks on tensors are found if the graph holds the tensor, as a leaf or saved for backward, or a
    variable of a running function does; `record` finds them all. Hooks on nodes other than leaves' are found only with
    ``node_hooks=True``, which takes about 3 µs per node.

    What stays on the nodes: an empty table of hooks on those that were searched for hooks; and in a graph of more than
    10,000 nodes, in the ``metadata`` of every 1,000th, a list by which PyTorch can free the graph without recursion.

    Raises TargetError if nothing in `outputs` requires grad.

    >>> import torch, fxgrad
    >>> x = torch.ones(3, requires_grad=True)
    >>> [node.label for node in fxgrad.capture((x * 2).sum()).graph.nodes]
    ['SumBackward0_0', 'MulBackward0_0', 'AccumulateGrad_0']
    """
    from fxgrad.observe.run import check_surroundings, observe_tensors

    check_surroundings()
    return _make_trace(observe_tensors(outputs, model, node_hooks=node_hooks), model)


def verify(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], Any] | None = None,
    device: str | torch.device | None = None,
    inputs: Sequence[str] | None = None,
    api: Literal["backward", "grad"] = "backward",
    roots: Sequence[str] | None = None,
    after: Literal["retained", "freed"] | None = None,
    compiled: bool = False,
) -> Verification:
    """Run forward and the real backward with the model's hooks, and compare each prediction with what the hook got.

    The hooks do run. Restores ``.grad`` and all that `trace` restores.
    `inputs`, `api`, `roots` and `after` say how backward is called, by names, as for `Trace.predict`.

    A compiled model runs without torch.compile. With `compiled` it runs compiled, after a run without for the
    prediction, and how often each hook was called is compared: a compiled region may pass hooks by (FXG303). What has
    not been compiled before is compiled then, and stays so.

    Raises what `trace` raises, TargetError if a hook raises, and UsageError for `compiled` with another call of
    backward than the plain one, or where nothing is compiled.

    >>> import torch, fxgrad
    >>> model = torch.nn.Linear(10, 20)
    >>> handle = model.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    >>> print(fxgrad.verify(model, torch.randn(8, 10)))  # doctest: +ELLIPSIS
    1 hook site...
    """
    from fxgrad.observe import execution
    from fxgrad.observe.run import check_surroundings, unpack_exported
    from fxgrad.observe.target import devices

    check_surroundings()
    runnable = unpack_exported(model)
    arguments, keywords = _check_arguments(args, kwargs)
    if devices.needs_emulation(device):
        raise UsageError(
            f"verify a live model on {device}, which does not exist here",
            "an existing device: the emulated accelerator needs its own process, in which no backward has run",
            f"on the command line: fxgrad verify FILE --device {device}, with a factory that builds the model",
        )
    devices.check_placed(runnable, device)
    if compiled:
        _check_plain_call([inputs, roots, after], api)
        with _explain_errors():
            return _compare_compiled(execution.execute_compiled(runnable, arguments, keywords, loss=loss))
    with _explain_errors():
        executed = execution.execute(
            runnable,
            arguments,
            keywords,
            loss=loss,
            called=partial(set_backward_call, inputs=inputs, api=api, roots=roots, after=after),
        )
    return _compare(executed)


def _check_plain_call(given: Sequence[Any], api: str) -> None:
    if api != "backward" or any(each is not None for each in given):
        raise UsageError(
            "a compiled run with inputs, api, roots or after",
            "backward() from all roots: a compiled region is one node, so nothing inside it can be named",
            "omit them, or omit compiled",
        )


def _compare_compiled(run: CompiledRun) -> Verification:
    from fxgrad.verification import compare_compiled

    return compare_compiled(predict(without_compiled_code(run.graph)), run.times)


def _compare(executed: Executed) -> Verification:
    """Compare what a run without torch.compile did with what is predicted for such a run."""
    from fxgrad.verification import compare

    return compare(predict(without_compiled_code(executed.graph)), executed.firings, executed.raised)


def trace_target(options: TargetOptions) -> Trace:
    """Trace a TARGET of the command line: a file, a module class, or a saved trace.

    On a device that does not exist here, in a process of its own that emulates it; if a non-full hook sits on a node,
    the target runs on the CPU as well, and ``graph.info.other_device`` has the nodes that such hooks sit on there. The
    sites are those for the call of backward that the options describe.

    Raises as `trace` does, and UsageError for an invalid target or option.
    """
    trace = _load_saved(options) if options.is_saved_trace else _run_target(options)
    if (options.backward_inputs, options.backward_api) == (None, "backward"):
        return trace
    return trace.predict(inputs=options.backward_inputs, api=options.backward_api)


def _load_saved(options: TargetOptions) -> Trace:
    given = options.run_options()
    if given:
        raise UsageError(
            f"{' and '.join(given)} for the saved trace {options.text}",
            "no option about running a model: a saved trace runs nothing",
            f"omit {'it' if len(given) == 1 else 'them'}, or trace the model again",
        )
    return load(options.text)


def _run_target(options: TargetOptions) -> Trace:
    if _needs_emulation(options):
        from fxgrad.emulated import trace_elsewhere

        return Trace(predict(trace_elsewhere(options)))
    from fxgrad.observe.target import loading

    with _explain_errors():
        return _make_trace(*loading.observe_target(options))


def _needs_emulation(options: TargetOptions) -> bool:
    from fxgrad.observe.target.devices import check_present, needs_emulation

    emulated = needs_emulation(options.device)
    if options.device is not None and not emulated:
        check_present(options.device)
    if emulated:
        from fxgrad.observe.target.importing import refuse_emulated_device

        refuse_emulated_device(options.text)
    return emulated


def probe_target(options: TargetOptions, module: str, kind: HookKind) -> Probe:
    """Probe a TARGET of the command line. Raises as `probe` and `trace_target` do.

    Raises UsageError for a saved trace, which cannot be run. Predicts the call of backward that the options describe. On
    an emulated device, a non-full hook is compared with its node on the CPU, as in `trace_target`.
    """
    if options.is_saved_trace:
        raise UsageError(
            f"a hook on the saved trace {options.text}",
            "a target that can be run, as forward runs with the hook",
            "pass the file or class that was traced",
        )
    added = _find_module_kind(kind)
    make = partial(_make_probe, inputs=options.backward_inputs, api=options.backward_api)
    if _needs_emulation(options):
        from fxgrad.emulated import probe_elsewhere

        return make(probe_elsewhere(options, module, added))
    from fxgrad.observe.target import loading

    with _explain_errors():
        return make(loading.observe_target_with_hook(options, module, added))


def check_target(options: TargetOptions) -> list[Finding]:
    """Trace a TARGET and list the rules' findings, each with the place in the user's code. Raises as `trace_target`."""
    from fxgrad.render.findings import list_findings
    from fxgrad.rules import explain

    graph = trace_target(options).graph
    path = options.text.rpartition(":")[0]
    return list(list_findings(graph, explain(graph), target=path if os.path.isfile(path) else options.text))


def verify_target(options: TargetOptions, *, compiled: bool = False) -> Verification:
    """Verify a TARGET of the command line. Raises as `verify` and `trace_target` do.

    A saved trace cannot be run, which is a UsageError.
    """
    if options.is_saved_trace:
        raise UsageError(
            f"the saved trace {options.text}, to verify",
            "a target that can be run",
            "pass the file or class that was traced",
        )
    if compiled:
        return _verify_compiled_target(options)
    if _needs_emulation(options):
        from fxgrad.emulated import execute_in_interpreter

        executed = execute_in_interpreter(options)
    else:
        from fxgrad.observe.target import loading

        with _explain_errors():
            executed = loading.execute_target(
                options, partial(set_backward_call, inputs=options.backward_inputs, api=options.backward_api)
            )
    return _compare(executed)


def _verify_compiled_target(options: TargetOptions) -> Verification:
    _check_plain_call([options.backward_inputs], options.backward_api)
    if _needs_emulation(options):
        raise UsageError(
            f"a compiled run on {options.device}, which does not exist here",
            "an existing device: the emulated accelerator computes nothing that could be compiled",
            "omit --device, or omit --compiled",
        )
    from fxgrad.observe.target import loading

    with _explain_errors():
        return _compare_compiled(loading.execute_compiled_target(options))

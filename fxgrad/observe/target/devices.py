"""The device that a model runs on: whether it is there, and how it is emulated where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from msgspec import structs
from torch import nn

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.observe.accelerator.device import find_caveats
from fxgrad.observe.execution import Executed
from fxgrad.observe.run import TracedRun

Run = TypeVar("Run", TracedRun, Executed, ProbeRun)

_NOT_CARRIED_OVER = "hooks on the AccumulateGrad nodes of a live model are not copied to the emulated accelerator"


def needs_emulation(device: str | torch.device | None) -> bool:
    """Whether `device` names a CUDA device on a machine that has none."""
    if device is None or parse_device(device).type != "cuda" or torch.cuda.is_available():
        return False
    from fxgrad.observe.accelerator.backend import explain_unavailable

    reason = explain_unavailable()
    if reason is not None:
        raise UsageError(
            f"device {device}: no CUDA here, and no emulated accelerator: {reason}",
            "an existing device",
            "omit the device, or upgrade torch to 2.10 or later",
        )
    return True


def parse_device(device: str | torch.device) -> torch.device:
    """The device of this name. Raises UsageError where torch knows none."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"no device {str(device)!r}", "a torch device: cpu, cuda, cuda:1, meta, mps, xpu", "cpu or cuda"
        ) from error


def check_present(device: str) -> None:
    """Refuse a device that torch has a name for, but that is not there: PyTorch says so in a hundred lines."""
    kind = parse_device(device).type
    if kind in ("cpu", "meta") or _is_present(kind):
        return
    raise UsageError(
        f"device {device}: it does not exist here",
        "an existing device, or cuda, which is emulated if missing",
        "--device cpu, or --device cuda",
    )


def _is_present(kind: str) -> bool:
    try:
        return bool(torch.get_device_module(kind).is_available())
    except (AttributeError, RuntimeError):  # a device type that has no module, or none in this build
        return False


def check_placed(model: nn.Module, device: str | torch.device | None) -> None:
    """Refuse a device that is there, but on which the model is not: moving it would change it."""
    if device is None:
        return
    wanted = parse_device(device)
    elsewhere = [
        (name, tensor.device)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.device.type != wanted.type or wanted.index not in (None, tensor.device.index)
    ]
    if elsewhere:
        name, where = elsewhere[0]
        raise UsageError(
            f"device {wanted} for a model whose {name} is on {where}",
            "the device that the model is on: tracing moves no tensors",
            f"model.to({str(wanted)!r}), with inputs to match, before tracing",
        )


def run_emulated(device: str | None, run: Callable[[torch.device], Run]) -> Run:
    """What `run` returns on the emulated device, which it is given; the graph says so, with what that leaves uncertain.

    Only for a process that will end, a new interpreter or a forked child: the backend stays in it.
    """
    from fxgrad.observe.accelerator.backend import emulate

    assert device is not None
    with emulate(device) as fake:
        result = run(fake)
    marked: Run = _change_graphs(result, lambda graph: _mark_emulated(graph, device))
    return marked


def _change_graphs(run: Any, change: Callable[[BackwardGraph], BackwardGraph]) -> Any:
    return run.with_graphs(change) if isinstance(run, ProbeRun) else replace(run, graph=change(run.graph))


def _mark_emulated(graph: BackwardGraph, device: str) -> BackwardGraph:
    caveats = find_caveats([node.name for node in graph.nodes])
    info = structs.replace(graph.info, device=device, emulated=True, notes=(*graph.info.notes, *caveats))
    return structs.replace(graph, info=info)


def run_moved_model(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: Callable[[tuple[Any, ...], dict[str, Any]], Run],
    *,
    device: str,
) -> Run:
    """What `run` returns for the arguments of a live model on the emulated device.

    Only for a forked child: it moves the model there.
    """
    from fxgrad.observe.accelerator.transfer import fake_copy, move_module

    def move_and_run(fake: torch.device) -> Run:
        memo: dict[int, Any] = {}  # an input that is a parameter, too, stays one tensor
        move_module(model, fake, memo=memo)
        return run(*fake_copy((args, kwargs), fake, memo=memo))

    noted: Run = _change_graphs(run_emulated(device, move_and_run), _note_what_stayed)
    return noted


def _note_what_stayed(graph: BackwardGraph) -> BackwardGraph:
    return structs.replace(graph, info=structs.replace(graph.info, notes=(*graph.info.notes, _NOT_CARRIED_OVER)))

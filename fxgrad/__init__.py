"""fxgrad: a debugger for PyTorch's backward graph: what each hook sits on, what it will get, and why.

>>> import torch, fxgrad
>>> model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU())
>>> handle = model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
>>> trace = fxgrad.trace(model, torch.randn(8, 10))
>>> [(site.call, trace.graph.nodes[site.node].label) for site in trace.sites]
[('0#1', 'BackwardHookFunctionBackward_0')]

The public names are loaded when they are first used, so that a saved trace can be read where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fxgrad.version import __version__ as __version__

if TYPE_CHECKING:
    from fxgrad.api import capture as capture
    from fxgrad.api import probe as probe
    from fxgrad.api import record as record
    from fxgrad.api import trace as trace
    from fxgrad.api import verify as verify
    from fxgrad.errors import FxgradError as FxgradError
    from fxgrad.errors import OutputError as OutputError
    from fxgrad.errors import TargetError as TargetError
    from fxgrad.errors import UsageError as UsageError
    from fxgrad.graph import BackwardGraph as BackwardGraph
    from fxgrad.graph import HookKind as HookKind
    from fxgrad.graph import NodeKind as NodeKind
    from fxgrad.observe.target.loading import Target as Target
    from fxgrad.result import Explanations as Explanations
    from fxgrad.result import Probe as Probe
    from fxgrad.result import Report as Report
    from fxgrad.result import Trace as Trace
    from fxgrad.result import load as load
    from fxgrad.verification import Verification as Verification

_HOME = {
    "BackwardGraph": "fxgrad.graph",
    "Explanations": "fxgrad.result",
    "FxgradError": "fxgrad.errors",
    "HookKind": "fxgrad.graph",
    "NodeKind": "fxgrad.graph",
    "OutputError": "fxgrad.errors",
    "Probe": "fxgrad.result",
    "Report": "fxgrad.result",
    "Target": "fxgrad.observe.target.loading",
    "TargetError": "fxgrad.errors",
    "Trace": "fxgrad.result",
    "UsageError": "fxgrad.errors",
    "Verification": "fxgrad.verification",
    "capture": "fxgrad.api",
    "load": "fxgrad.result",
    "probe": "fxgrad.api",
    "record": "fxgrad.api",
    "trace": "fxgrad.api",
    "verify": "fxgrad.api",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fxgrad' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

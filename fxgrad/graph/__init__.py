"""The records of a backward graph, and the graph itself. No torch."""

from fxgrad.graph.backward_graph import BackwardGraph
from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.hook_records import Explanation, Gradient, Held, Hook, HookSite
from fxgrad.graph.info import BackwardCall, GraphInfo, Landing, OtherDevice
from fxgrad.graph.records import (
    Edge,
    FullHookSetup,
    FxNode,
    Module,
    ModuleCall,
    Node,
    NodeKind,
    Path,
    Returned,
    Root,
    Shape,
    Source,
    Taken,
    TensorMeta,
    TensorRef,
    UnrecordedCall,
    Value,
    Variable,
)

__all__ = [
    "BackwardCall",
    "BackwardGraph",
    "Edge",
    "Explanation",
    "FullHookSetup",
    "FxNode",
    "Gradient",
    "GraphInfo",
    "Held",
    "Hook",
    "HookKind",
    "HookSite",
    "Landing",
    "Module",
    "ModuleCall",
    "Node",
    "NodeKind",
    "OtherDevice",
    "Path",
    "Returned",
    "Root",
    "Shape",
    "Source",
    "Taken",
    "TensorMeta",
    "TensorRef",
    "UnrecordedCall",
    "Value",
    "Variable",
]

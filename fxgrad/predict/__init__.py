"""What each hook will receive, and whether, how often and in which order it is called: predicted before backward."""

from fxgrad.graph import BackwardCall
from fxgrad.predict.formulas import keeps_zeros, returns_zeros
from fxgrad.predict.places import find_landings, find_places
from fxgrad.predict.reasons import describe_return_error, find_refused_leaves, find_unreached_nodes
from fxgrad.predict.simulation import NodePrediction, find_order_caveat, find_raising_nodes, predict_nodes
from fxgrad.predict.sites import predict, set_backward_call, without_compiled_code

__all__ = [
    "BackwardCall",
    "NodePrediction",
    "describe_return_error",
    "find_landings",
    "find_order_caveat",
    "find_places",
    "find_raising_nodes",
    "find_refused_leaves",
    "find_unreached_nodes",
    "keeps_zeros",
    "predict",
    "predict_nodes",
    "returns_zeros",
    "set_backward_call",
    "without_compiled_code",
]

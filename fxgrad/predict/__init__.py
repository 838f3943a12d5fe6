"""What each hook will receive, and whether, how often and in which order it is called: worked out before backward."""

from fxgrad.graph import BackwardCall
from fxgrad.predict.calling import called
from fxgrad.predict.nodes import NodePrediction, order_caveat, passed_by, predict_nodes
from fxgrad.predict.sites import predict

__all__ = [
    "BackwardCall",
    "NodePrediction",
    "called",
    "order_caveat",
    "passed_by",
    "predict",
    "predict_nodes",
]

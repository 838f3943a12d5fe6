"""What each hook will receive, and whether, how often and in which order it is called: worked out before backward."""

from fxgrad.predict.engine import BackwardCall
from fxgrad.predict.nodes import NodePrediction, order_caveat, predict_nodes
from fxgrad.predict.sites import predict

__all__ = ["BackwardCall", "NodePrediction", "order_caveat", "predict", "predict_nodes"]

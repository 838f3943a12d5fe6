"""What a module hook would get, and what it would move: answered on the records. Nothing is registered or run."""

from fxgrad.probe.hypothesis import Hypothesis, hypothesis

__all__ = ["Hypothesis", "hypothesis"]

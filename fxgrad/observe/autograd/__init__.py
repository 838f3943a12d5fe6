"""Reads the autograd graph: what nodes are called, what their gradients stand for, and what Python code behind them does."""

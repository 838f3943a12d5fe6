"""Reads the autograd graph: the walk, what nodes and their gradients are called, what made them, and the code behind them."""

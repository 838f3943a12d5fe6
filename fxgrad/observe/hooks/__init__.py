"""Finds the hooks on a graph: where PyTorch keeps them, how they were registered, and what their code does."""

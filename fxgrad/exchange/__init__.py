"""Backward graphs in other forms, out and in: JSON text and networkx."""

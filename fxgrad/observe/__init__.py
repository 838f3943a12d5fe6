"""The only rooms that touch torch: they watch a run and write down what they saw."""

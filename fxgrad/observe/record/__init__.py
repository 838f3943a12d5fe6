"""Watches one run of a model: its module calls, its function calls, and the names of what it uses."""

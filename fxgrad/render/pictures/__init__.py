"""What is drawn of a graph: boxes, arrows and frames, before any notation and any place."""

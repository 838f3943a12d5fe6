"""From a graph to the boxes, arrows and frames that show it; how they are written down is for `fxgrad.render.dot`."""

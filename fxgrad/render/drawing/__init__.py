"""Where everything of a picture stands, and SVG, DOT, PNG and PDF of it."""

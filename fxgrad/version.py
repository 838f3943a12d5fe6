"""The version of fxgrad, on its own so that every layer can import it."""

__version__ = "0.1.0"

"""fxgrad: understand PyTorch's backward graph. What every hook sits on, what it will get, and why."""

from __future__ import annotations

__version__ = "0.1.0"

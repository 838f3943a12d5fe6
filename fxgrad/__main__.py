"""``python -m fxgrad``."""

from __future__ import annotations

import sys

from fxgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Records other than a whole graph as JSON text: findings for readers, and answers between processes."""

from __future__ import annotations

import json
from typing import Any

from fxgrad.exchange.codec import Codecs


def records_to_json(value: Any, hint: Any) -> str:
    """JSON text of a value that has the type `hint`: records, or tuples of them.

    >>> from fxgrad.graph import Value
    >>> records_to_json((Value("relu"),), tuple[Value, ...])
    '[{"fx_node": "relu"}]'
    """
    return json.dumps(Codecs().codec(hint).encode(value))


def records_from_json(text: str, hint: Any) -> Any:
    """The value back. For text that fxgrad itself wrote: what does not fit raises the codec's Mismatch."""
    return Codecs().codec(hint).decode(json.loads(text))

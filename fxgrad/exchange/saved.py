"""A backward graph as JSON text, and back without torch.

The text is one object. Its keys are the fields of `BackwardGraph`, ``info`` first, and each record stands on a line
of its own, as an object of the record's fields without those that have their default: two saved graphs can be
compared with any diff, and read with any JSON reader. The same graph always gives the same text, in ASCII. Reading
makes records from it and nothing else: no code in a file is ever run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from fxgrad.errors import UsageError
from fxgrad.exchange.codec import Codecs, Mismatch, shown
from fxgrad.graph import BackwardGraph, Hook, Source, TensorMeta
from fxgrad.graph.info import SCHEMA_VERSION
from fxgrad.graph.structure import structural_problems
from fxgrad.graph.text import escape_unprintable

SAVE_AGAIN = "save the trace again with trace.to_json(path)"
_INTERNED = frozenset({TensorMeta, Source, Hook})


def to_json(graph: BackwardGraph) -> str:
    """Write `graph` as JSON text that `from_json` reads back to an equal graph.

    Strings may hold anything. Raises `UsageError` for records that are not of this version's schema.
    """
    if graph.info.schema_version != SCHEMA_VERSION:
        raise _other_version("the graph", str(graph.info.schema_version))
    return "".join(_chunks(graph))


def _chunks(graph: BackwardGraph) -> Iterator[str]:
    line = _line_writer()
    yield f'{{"info":{line(graph.info)}'
    for field in dataclasses.fields(graph):
        records = getattr(graph, field.name)
        if field.name != "info" and records != field.default:
            lines = ",\n".join([line(record) for record in records])
            yield f',\n"{field.name}":[\n{lines}\n]' if lines else f',\n"{field.name}":[]'
    yield "\n}\n"


def _line_writer() -> Callable[[Any], str]:
    codecs = Codecs()
    write = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode
    return lambda record: write(codecs.codec(type(record)).encode(record))


def from_json(text: str | bytes, *, origin: str = "the text") -> BackwardGraph:
    """Read a graph that `to_json` wrote, from the text or from a file's bytes; `origin` names it in errors.

    The graph is equal to the one that was saved, and its references are sound (`structural_problems`). Raises
    `UsageError`, and nothing else, for any other text: it says which record and field is wrong.
    """
    document = _parsed(text, origin)
    _check_version(document, origin)
    try:
        graph: BackwardGraph = Codecs(_INTERNED).codec(BackwardGraph).decode(document)
    except Mismatch as mismatch:
        raise _not_a_trace(f"{mismatch.where or 'it'} {mismatch.problem}", mismatch.allowed, origin) from None
    problem = next(structural_problems(graph), None)
    if problem is not None:
        raise _not_a_trace(problem, "a graph whose ids are ranks and whose references lead somewhere", origin)
    return graph


def _parsed(text: str | bytes, origin: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # not JSON, not Unicode, or a number of more digits than Python reads
        raise _not_a_trace(
            f"it is not JSON: {escape_unprintable(str(error))}", "the text that trace.to_json writes", origin
        ) from None
    except RecursionError:
        raise _not_a_trace("it is nested too deep", "the text that trace.to_json writes", origin) from None


def _check_version(document: Any, origin: str) -> None:
    """Look at the version before anything else: another one may have other fields everywhere."""
    info = document.get("info") if isinstance(document, dict) else None
    version = info.get("schema_version") if isinstance(info, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise _other_version(escape_unprintable(origin), shown(version))


def _other_version(given: str, version: str) -> UsageError:
    return UsageError(
        f"{given} is of schema version {version}",
        f"schema version {SCHEMA_VERSION}, which this fxgrad reads and writes",
        f"{SAVE_AGAIN} with this fxgrad, or use the fxgrad that saved it",
    )


def _not_a_trace(problem: str, allowed: str, origin: str) -> UsageError:
    return UsageError(f"{escape_unprintable(origin)} is not a saved trace: {problem}", allowed, SAVE_AGAIN)

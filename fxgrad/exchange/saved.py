"""A backward graph as JSON text, and back without torch.

The text is one object. Its keys are the fields of `BackwardGraph`, ``info`` first, and each record stands on a line
of its own, as an object of the record's fields without those that have their default: two saved graphs can be
compared with any diff, and read with any JSON reader. The same graph always gives the same text, in ASCII. Reading
makes records from it and nothing else: no code in a file is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from fxgrad.collection import pause_collection
from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Hook, Source, TensorMeta
from fxgrad.graph.check import find_structural_problems
from fxgrad.graph.records import SCHEMA_VERSION, Record
from fxgrad.graph.text import escape_unprintable

SAVE_AGAIN = "save the trace again with trace.to_json(path)"
_AS_WRITTEN = "text written by trace.to_json"
_write_compact = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode

_Value = TypeVar("_Value")


def to_json(graph: BackwardGraph) -> str:
    """Write `graph` as JSON text that `from_json` reads back to an equal graph.

    Strings may hold anything. Two surrogates in a row are read back as the character that they stand for: JSON does not
    tell these apart. Raises `UsageError` for records that are not of this version's schema.
    """
    if graph.info.schema_version != SCHEMA_VERSION:
        raise _other_version("the graph", str(graph.info.schema_version))
    return "".join(_list_chunks(graph))


def _list_chunks(graph: BackwardGraph) -> Iterator[str]:
    yield f'{{"info":{_format_line(graph.info)}'
    for field in msgspec.structs.fields(graph):
        records = getattr(graph, field.name)
        if field.name != "info" and records != field.default:
            lines = ",\n".join([_format_line(record) for record in records])
            yield f',\n"{field.name}":[\n{lines}\n]' if lines else f',\n"{field.name}":[]'
    yield "\n}\n"


def _format_line(record: Record) -> str:
    # not msgspec.json, which writes UTF-8 and refuses lone surrogates: names of files and hooks may hold them
    return _write_compact(msgspec.to_builtins(record))


@pause_collection()
def from_json(text: str | bytes, *, origin: str = "the text") -> BackwardGraph:
    """Read a graph that `to_json` wrote, from the text or from a file's bytes; `origin` names it in errors.

    The graph is equal to the one that was saved, and its references are sound (`find_structural_problems`). Raises
    `UsageError`, and nothing else, for any other text: it says which record and field is wrong.
    """
    document = _parse(text, origin)
    _check_version(document, origin)
    try:
        graph = msgspec.convert(document, BackwardGraph)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise _not_a_trace(_describe_mismatch(error), f"records of schema version {SCHEMA_VERSION}", origin) from None
    problem = next(find_structural_problems(graph), None)
    if problem is not None:
        raise _not_a_trace(problem, "a graph whose ids are ranks and whose references exist", origin)
    return graph


def _parse(text: str | bytes, origin: str) -> Any:
    try:
        return json.loads(text, object_hook=_share_equal_parts())
    except ValueError as error:  # not JSON, not Unicode, or a number of more digits than Python reads
        raise _not_a_trace(f"it is not JSON: {escape_unprintable(str(error))}", _AS_WRITTEN, origin) from None
    except RecursionError:
        raise _not_a_trace("it is nested too deep", _AS_WRITTEN, origin) from None


def _share_equal_parts() -> Callable[[dict[str, Any]], Any]:
    """Make a hook for ``json.loads`` that makes equal strings, metas, source lines and hooks one object.

    They are one object in a graph that was just traced, too. It halves the memory that a large graph takes.
    """
    strings: dict[str, str] = {}
    records: dict[Record, Record] = {}

    def share(entry: dict[str, Any]) -> Any:
        for key, value in entry.items():
            if type(value) is str:
                entry[key] = strings.setdefault(value, value)
        kind = _find_shared_kind(entry)
        if kind is None:
            return entry
        try:
            record = msgspec.convert(entry, kind)
        except (msgspec.ValidationError, UnicodeError):
            return entry  # the graph's own conversion says where it is
        return records.setdefault(record, record)

    return share


def _find_shared_kind(entry: dict[str, Any]) -> type[Record] | None:
    """Which of these records an object is, by its keys. A wrong answer does no harm: the whole graph is checked later."""
    if "device" in entry and "dtype" in entry:  # GraphInfo has a device as well
        return TensorMeta
    if "file" in entry:
        return Source
    return Hook if "owner" in entry and "function" in entry else None


def _check_version(document: Any, origin: str) -> None:
    """Look at the version before anything else: another one may have other fields everywhere."""
    info = document.get("info") if isinstance(document, dict) else None
    version = info.get("schema_version") if isinstance(info, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise _other_version(escape_unprintable(origin), str(version))


def _describe_mismatch(error: Exception) -> str:
    """Reword what msgspec says: ``Expected `int | null`, got `str` - at `$.nodes[3].edges[0].next_node```."""
    if isinstance(error, UnicodeError):
        return "a lone surrogate where the schema has no free text"
    problem, _, place = str(error).replace("`", "").partition(" - at $.")
    problem = problem[:1].lower() + problem[1:]
    return escape_unprintable(f"{place}: {problem}" if place else problem)


def _other_version(given: str, version: str) -> UsageError:
    return UsageError(
        f"{given} is of schema version {version}",
        f"schema version {SCHEMA_VERSION}, which this fxgrad reads and writes",
        f"{SAVE_AGAIN} with this fxgrad, or use the fxgrad that saved it",
    )


def _not_a_trace(problem: str, allowed: str, origin: str) -> UsageError:
    return UsageError(f"{escape_unprintable(origin)} is not a saved trace: {problem}", allowed, SAVE_AGAIN)


def records_to_json(value: Any) -> str:
    """JSON text of records, or of tuples of them, without the fields that have their default.

    >>> from fxgrad.graph import Value
    >>> records_to_json((Value("relu"),))
    '[{"fx_node": "relu"}]'
    """
    return json.dumps(msgspec.to_builtins(value))


def records_from_json(text: str, hint: type[_Value]) -> _Value:
    """Read what `records_to_json` wrote; `hint` is its type. Raises ``msgspec.ValidationError`` for anything else."""
    return msgspec.convert(json.loads(text), hint)

"""Draws the rooms of fxgrad, with an arrow from each to those that it imports.

    python tests/rooms.py                       # writes tests/golden/rooms.svg, which ARCHITECTURE.md shows
    python tests/rooms.py some/other/file.svg

A room is a package, or a module beside the packages. What a room is for is the first sentence of its docstring. An
arrow is left out where others lead the same way, so each room may import all that can be reached from it.
"""

from __future__ import annotations

import ast
import html
import sys
import textwrap
from pathlib import Path

import graphviz
import networkx
import pygraphviz

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURE = REPOSITORY / "tests" / "golden" / "rooms.svg"
_SOURCES = REPOSITORY / "fxgrad"
_HOLDS_ROOMS = ("observe",)
"""Packages whose packages and modules are rooms, too."""
_LEFT_OUT = ("__init__", "__main__", "version")
_WIDTH = 34


def list_rooms() -> dict[str, str]:
    """The name of each room, with what it is for.

    >>> list_rooms()["predict"][:27]
    'What each hook will receive'
    """
    rooms = {room_of(path.relative_to(_SOURCES)): path for path in sorted(_SOURCES.rglob("*.py"), reverse=True)}
    return {
        name: _read_purpose(path) for name, path in sorted(rooms.items()) if name not in (*_LEFT_OUT, *_HOLDS_ROOMS)
    }


def list_imports() -> networkx.DiGraph[str]:
    """Which room imports which, imports for types and inside of functions included."""
    imports: networkx.DiGraph[str] = networkx.DiGraph()
    imports.add_nodes_from(list_rooms())
    for path in _SOURCES.rglob("*.py"):
        room = room_of(path.relative_to(_SOURCES))
        for target in _list_imported(path):
            if room != target and room in imports and target in imports:
                imports.add_edge(room, target)
    return imports


def room_of(path: Path) -> str:
    """The room of a file, by its path in fxgrad.

    >>> room_of(Path("observe/hooks/tables.py")), room_of(Path("observe/run.py")), room_of(Path("api.py"))
    ('observe.hooks', 'observe.run', 'api')
    """
    parts = path.with_suffix("").parts
    inside = parts[0] in _HOLDS_ROOMS and parts[1:] not in ((), ("__init__",))
    return ".".join(parts[: 2 if inside else 1])


def _list_imported(path: Path) -> list[str]:
    rooms = []
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        elif isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            continue
        rooms += [_find_room(name) for name in names if name.startswith("fxgrad.")]
    return rooms


def _find_room(dotted: str) -> str:
    """The room that holds a module, or what a module defines."""
    parts = dotted.split(".")[1:]
    while parts and not any(_SOURCES.joinpath(*parts).with_suffix(suffix).exists() for suffix in ("", ".py")):
        parts.pop()
    is_package = bool(parts) and _SOURCES.joinpath(*parts).is_dir()
    return room_of(Path(*parts, "__init__.py") if is_package else Path(*parts)) if parts else "__init__"


def _read_purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.partition("\n\n")[0].replace("\n", " ")
    return first.partition(". ")[0].rstrip(".:").replace("``", "").replace("`", "")


def draw_rooms() -> str:
    """The picture as SVG text."""
    rooms, imports = list_rooms(), list_imports()
    dot = graphviz.Digraph(
        "fxgrad", graph_attr={"ranksep": "0.35", "nodesep": "0.2"}, node_attr={"shape": "box", "fontname": "Helvetica"}
    )
    for name, purpose in rooms.items():
        lines = "<br/>".join(map(html.escape, textwrap.wrap(purpose, _WIDTH)))
        colour = "#fbe3d6" if name.split(".")[0] in _HOLDS_ROOMS else "#f2f2f2"
        label = f'<<b>{html.escape(name)}</b><br/><font point-size="10">{lines}</font>>'
        dot.node(name, label, style="filled", fillcolor=colour)
    for room, imported in sorted(networkx.transitive_reduction(imports).edges):
        dot.edge(room, imported)
    picture: bytes = pygraphviz.AGraph(dot.source).draw(format="svg", prog="dot")
    return picture.decode()


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else PICTURE).write_text(draw_rooms(), encoding="utf-8")

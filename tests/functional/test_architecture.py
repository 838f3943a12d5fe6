"""ARCHITECTURE.md and CONTRIBUTING.md speak of what is there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import networkx
import pytest

from tests import rooms

SVG = "{http://www.w3.org/2000/svg}"
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md")


def titles(kind: str) -> set[str]:
    """The names of the picture's nodes or edges."""
    picture = ElementTree.parse(rooms.PICTURE)
    return {group.findtext(f"{SVG}title", "") for group in picture.iter(f"{SVG}g") if group.get("class") == kind}


def test_the_picture_has_the_rooms_that_there_are() -> None:
    assert titles("node") == set(rooms.list_rooms())


def test_the_picture_has_the_imports_that_there_are() -> None:
    needed = networkx.transitive_reduction(rooms.list_imports()).edges
    assert titles("edge") == {f"{room}->{imported}" for room, imported in needed}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_it_leads_somewhere(document: str, repository: Path) -> None:
    text = (repository / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)+[\w.]*)`", text) + re.findall(r"`(\w+\.(?:py|cfg|md))`", text)
    folders = [repository, repository / "fxgrad", *(repository / "fxgrad").rglob("*/")]
    assert len(named) > 5
    assert [path for path in named if not any((folder / path).exists() for folder in folders)] == []

"""What the README shows is what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.commands import printed_by, without_versions

BLOCK = re.compile(r"(?P<fence>```console\n)(?P<body>\$ fxgrad .*?)(?P<end>\n```)", re.DOTALL)


def renewed(block: re.Match[str], folder: Path) -> str:
    command = block["body"].splitlines()[0].removeprefix("$ ")
    return f"{block['fence']}$ {command}\n{without_versions(printed_by(command, folder))}{block['end']}"


def test_readme_shows_what_each_command_prints(repository: Path, overwrite: bool) -> None:
    readme = repository / "README.md"
    text = readme.read_text(encoding="utf-8")
    now = BLOCK.sub(lambda block: renewed(block, repository), text)
    if overwrite:
        readme.write_text(now, encoding="utf-8")
    assert BLOCK.search(text)
    assert now == text

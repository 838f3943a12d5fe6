"""What the README shows is what the commands print; a line with nothing but … stands for what is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import printed_by, without_versions

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```console\n\$ (fxgrad [^\n]*)\n(.*?)\n```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_readme_shows_what_the_command_prints(command: str, shown: str, repository: Path) -> None:
    printed = without_versions(printed_by(command, repository))
    position = 0
    for part in f"\n{without_versions(shown)}\n".split("\n…\n"):
        assert part.strip("\n") in printed[position:], f"not printed, or not in this order:\n{part}"
        position = printed.index(part.strip("\n"), position)


def test_readme_opens_with_the_two_commands() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:24]
    assert sum(line.startswith("python3 -m venv .venv && ") for line in first_screen) == 2

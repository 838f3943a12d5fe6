"""What the README shows is what the commands print; a line with nothing but … stands for what is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fxgrad.cli.commands import fxgrad as command_line
from tests.support.commands import printed_by, without_versions
from tests.support.needs import needs_of_command

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```console\n\$ (fxgrad [^\n]*)\n(.*?)\n```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("command", "shown"),
    [pytest.param(command, shown, marks=needs_of_command(command), id=command) for command, shown in BLOCKS],
)
def test_readme_shows_what_the_command_prints(command: str, shown: str, repository: Path) -> None:
    printed = without_versions(printed_by(command, repository))
    position = 0
    for part in f"\n{without_versions(shown)}\n".split("\n…\n"):
        assert part.strip("\n") in printed[position:], f"not printed, or not in this order:\n{part}"
        position = printed.index(part.strip("\n"), position)


def test_readme_opens_with_the_two_commands() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:24]
    assert sum(line.startswith("python3 -m venv .venv && ") for line in first_screen) == 2


def test_readme_lists_the_commands_that_there_are() -> None:
    text = README.read_text(encoding="utf-8")
    assert re.findall(r"^\| `fxgrad (\w+)", text, re.MULTILINE) == list(command_line.commands)


def test_readme_lists_the_options_that_every_target_takes() -> None:
    everywhere = README.read_text(encoding="utf-8").partition("\nEverywhere: ")[2].partition(". ")[0]
    taken = [
        {
            name
            for parameter in command_line.commands[verb].params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        for verb in ("report", "explain", "draw", "verify")
    ]
    mentioned = set(re.findall(r"--\w+", everywhere))
    assert mentioned == set.intersection(*taken) - {"text", "--init", "--input", "--debug"}

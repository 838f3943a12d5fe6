"""What [tool.fxgrad] of pyproject.toml tells `fxgrad check`, and the hook for pre-commit."""

from __future__ import annotations

import pytest

from fxgrad.cli import main

SILENT = """
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
        def forward(self, x):
            return self.used(x)
    def build():
        model = Unused()
        model.used.register_backward_hook(print_sizes)
        return model, torch.ones(2, 3)
"""


@pytest.fixture
def codes(write, folder, capsys):
    """The codes that `fxgrad check` finds in model.py, by default what the table in pyproject.toml names."""
    write(SILENT)

    def run(table, *arguments):
        (folder / "pyproject.toml").write_text(table)
        assert main(["check", *arguments]) in (0, 1)
        return {line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("model.py")}

    return run


def test_targets_stand_in_the_table(codes):
    assert codes('[tool.fxgrad]\ntargets = ["model.py"]') == {"FXG101", "FXG204"}


def test_codes_are_selected_and_ignored_by_the_table(codes):
    table = '[tool.fxgrad]\ntargets = ["model.py:build"]\n'
    assert codes(table + 'select = ["FXG2"]') == {"FXG204"}
    assert codes(table + 'ignore = ["FXG2"]') == {"FXG101"}


def test_the_command_line_overrides_the_table(codes):
    table = '[tool.fxgrad]\ntargets = ["missing.py"]\nselect = ["FXG2"]\nignore = ["FXG1"]'
    assert codes(table, "model.py", "--select", "FXG1", "--ignore", "FXG2") == {"FXG101"}


def test_other_tools_tables_are_theirs(codes):
    assert codes("[tool.other]\nselect = 3", "model.py") == {"FXG101", "FXG204"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.fxgrad", "cannot read [tool.fxgrad] of pyproject.toml: "),
        ("tool = 3", "cannot read [tool.fxgrad] of pyproject.toml: "),
        ("[tool]\nfxgrad = 3", "[tool.fxgrad] of pyproject.toml: itself = 3"),
        ('[tool.fxgrad]\nselect = "FXG1"', "[tool.fxgrad] of pyproject.toml: select = 'FXG1'"),
        ("[tool.fxgrad]\nselect = [1]", "[tool.fxgrad] of pyproject.toml: select = [1]"),
        ("[tool.fxgrad]\nselected = []", "[tool.fxgrad] of pyproject.toml: selected = []"),
        ('[tool.fxgrad]\nselect = ["E501"]', "--select E501: no rule's code starts with it"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(folder, fails, text, said):
    (folder / "pyproject.toml").write_text(text)
    status, err = fails("check", "model.py")
    assert (status, err[: len(said) + 7]) == (2, f"error: {said}")


def test_without_a_target_there_is_nothing_to_check(folder, fails):
    status, err = fails("check")
    assert status == 2
    assert "targets = [...] in [tool.fxgrad] of pyproject.toml" in err


def test_the_hook_of_pre_commit_is_a_command_of_fxgrad(repository, codes):
    (entry,) = [
        line.partition(":")[2].split()
        for line in (repository / ".pre-commit-hooks.yaml").read_text().splitlines()
        if line.strip().startswith("entry:")
    ]
    assert entry == ["fxgrad", "check"]
    assert codes('[tool.fxgrad]\ntargets = ["model.py"]', *entry[2:])


def test_rules_about_a_next_step_are_told_to_those_who_ask(write, capsys):
    file = write("""
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(3, 3)
            def forward(self, x):
                return self.linear(x)
        def build():
            model = nn.Sequential(Block())
            model[0].register_full_backward_hook(print_sizes)
            return model, torch.ones(2, 3, requires_grad=True)
    """)
    assert (main(["check", file, "--select", "FXG1"]), main(["check", file]), main(["report", file])) == (0, 0, 0)
    assert "FXG301" not in capsys.readouterr().out
    assert main(["check", file, "--select", "FXG3"]) == 0
    assert "FXG301" in capsys.readouterr().out

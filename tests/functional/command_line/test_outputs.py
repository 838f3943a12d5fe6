"""What cannot be drawn or written (exit status 4), and names that are hard to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fxgrad.cli import main
from tests.support.targets import HEAD, MODEL, python


@pytest.mark.parametrize("place", ["missing/graph.svg", "folder.svg"])
def test_an_unwritable_picture(model, fails, folder, place):
    (folder / "folder.svg").mkdir()
    status, err = fails("draw", model, "-o", place)
    assert status == 4
    assert place in err


def test_a_folder_that_is_not_there_is_told_before_the_target_runs(write, fails):
    file = write("print('running')\ndef build(): ...")
    status, err = fails("draw", file, "-o", "missing/graph.svg")
    assert status == 4
    assert err == (
        'error: cannot write "missing/graph.svg": No such file or directory\n'
        "  allowed: a file in an existing, writable folder\n"
        '  try: make the folder "missing" first\n'
    )


FAILING = {
    "the factory": "def build(): raise ValueError",
    "forward": """
        class Bad(nn.Module):
            def forward(self, x): raise ValueError
        def build(): return Bad(), (torch.ones(2),)
    """,
    "nothing to differentiate": "def build(): return nn.Identity(), (torch.ones(2),)",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize(
    "command", [["draw", "-o", "a.svg"], ["report", "--svg", "a.svg", "--json", "a.json", "--markdown", "a.md"]]
)
def test_a_run_that_fails_leaves_the_outputs_that_were_there(write, fails, folder, text, command):
    outputs = [name for name in command if name.startswith("a.")]
    for name in outputs:
        (folder / name).write_text("before")
    status, _ = fails(*command, write(text))
    assert status == 3
    assert {path.name: path.read_text() for path in folder.glob("a.*")} == dict.fromkeys(outputs, "before")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*outputs, "model.py"])


def test_the_second_of_two_outputs_fails(model, folder, capsys):
    assert main(["report", model, "--svg", "a.svg", "--json", "missing/a.json"]) == 4
    out, err = capsys.readouterr()
    assert "print_sizes" in out
    assert "missing/a.json" in err
    assert "\nwritten: a.svg\n" in err
    assert (folder / "a.svg").exists()


def test_a_file_that_was_there_is_as_it_was_when_drawing_fails(model, folder, fails, monkeypatch):
    (folder / "graph.svg").write_text("before")
    monkeypatch.setattr("fxgrad.render.drawing.engine._find_engine", lambda *_: ["/bin/false"])
    status, _ = fails("draw", model, "-o", "graph.svg")
    assert status == 4
    assert (folder / "graph.svg").read_text() == "before"
    assert sorted(path.name for path in folder.iterdir()) == ["graph.svg", model]


@pytest.mark.parametrize(
    "command", [["draw", "-o", "link.svg"], ["report", "--json", "link.svg"], ["report", "--markdown", "link.svg"]]
)
def test_a_link_to_the_target_is_the_target(model, folder, fails, command):
    before = (folder / model).read_text()
    (folder / "link.svg").symlink_to(model)
    status, err = fails(*command, model)
    assert status == 2
    assert err.startswith("error: the output link.svg is the target\n")
    assert (folder / model).read_text() == before


@pytest.mark.parametrize("name", ["a" * 300 + ".svg", "missing/" + "a" * 300 + ".svg"])
def test_a_name_that_no_file_can_have(model, fails, name):
    status, err = fails("draw", model, "-o", name)
    assert status == 4
    assert err.startswith('error: cannot write "')


@pytest.mark.parametrize("text", ["a" * 300, "a" * 300 + ".py", "a" * 300 + ".json", "a" * 300 + ":build"])
def test_a_target_of_a_name_that_no_file_can_have(folder, fails, text):
    assert fails("report", text)[0] == 2


def test_an_output_that_is_read_only_stays(model, folder, fails):
    (folder / "a.svg").write_text("before")
    (folder / "a.svg").chmod(0o444)
    status, err = fails("draw", model, "-o", "a.svg")
    assert (status, err.splitlines()[0]) == (4, 'error: cannot write "a.svg": the file is read-only')
    assert (folder / "a.svg").read_text() == "before"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout(model, folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fxgrad", "rule", "FXG101"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.startswith("error: cannot write to stdout: No space left on device\n")


# Names that are hard to show


@pytest.mark.parametrize(
    "name", ["a\"b'c", "<b>&amp;", "two\nlines", "fire 🔥", "\x1b[31mred", "\u202eback", "{x|y}", "a\\n"]
)
def test_a_module_of_any_name_is_reported_drawn_and_found(write, folder, capsys, name):
    file = write(f"""
        def build():
            model = nn.Sequential()
            model.add_module({name!r}, nn.Linear(4, 4))
            model.get_submodule({name!r}).register_full_backward_hook(print_sizes)
            return model, (torch.ones(2, 4),)
    """)
    assert main(["report", file, "--svg", "a.svg", "--json", "a.json", "--markdown", "a.md"]) == 0
    assert main(["explain", "a.json", name]) == 0
    out, err = capsys.readouterr()
    assert "print_sizes" in out
    assert not set(out + err + (folder / "a.md").read_text("utf-8")) & {"\x1b", "\u202e", "\r"}


def test_a_file_whose_name_is_no_utf8_is_traced(folder):
    name = b"mod\xff.py"
    (folder / os.fsdecode(name)).write_text(HEAD + MODEL)
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"fxgrad", b"report", name], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "settings",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "the C locale"],
)
def test_a_stdout_that_knows_ascii_only(model, settings):
    done = python("-m", "fxgrad", "explain", model, env={**os.environ, **settings})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()

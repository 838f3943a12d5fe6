"""What the commands parse, call and return, with an api that only remembers how it was called."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fxgrad
from fxgrad.cli import main
from fxgrad.errors import OutputError, TargetError, UsageError
from fxgrad.graph import Explanation, HookKind
from fxgrad.target_options import TargetOptions


class Shown:
    def __init__(self, text, severities=()):
        self.text = text
        self.findings = [Explanation("FXG101", severity, "", "", "") for severity in severities]

    def __str__(self):
        return self.text

    def to_json(self):
        return '{"findings": []}'


class Api:
    """Stands for fxgrad.api and for the trace that it returns."""

    def __init__(self):
        self.calls = []
        self.severities = ()
        self.ok = True
        self.during = lambda: None

    def trace_target(self, options):
        self.during()
        self.calls.append(("trace", options))
        return self

    def probe_target(self, options, module, kind):
        self.calls.append(("probe", options, module, kind))
        return SimpleNamespace(explanations=Shown("the probe", self.severities))

    def verify_target(self, options, *, compiled):
        self.calls.append(("verify compiled" if compiled else "verify", options))
        return SimpleNamespace(ok=self.ok, __str__=lambda: "compared")

    def report(self, *, all_hooks):
        self.calls.append(("report", all_hooks))
        return Shown("the report", self.severities)

    def explain(self, module, *, all_hooks):
        self.calls.append(("explain", module, *(["all hooks"] if all_hooks else [])))
        return Shown("the explanations", self.severities)

    def order(self, module, *, all_hooks):
        self.calls.append(("order", module, *(["all hooks"] if all_hooks else [])))
        return Shown("the order", self.severities)

    def draw(self, path=None, **options):
        self.calls.append(("draw", path, options))
        return "<svg/>"

    def to_json(self):
        return "{}"

    def to_markdown(self, *, all_hooks):
        return "# report"


@pytest.fixture
def api(monkeypatch):
    api = Api()
    monkeypatch.setattr(fxgrad, "api", api, raising=False)
    monkeypatch.setitem(sys.modules, "fxgrad.api", api)
    return api


def test_report_shows_the_report(api, capsys):
    assert main(["report", "model.py"]) == 0
    assert capsys.readouterr() == ("the report\n", "")
    assert api.calls == [("trace", TargetOptions("model.py")), ("report", False)]


def test_every_option_of_a_target_reaches_the_api(api):
    main(
        [
            *("report", "torch.nn:LSTMCell", "--init", "1, 2", "--input", "f32[1]", "--input", "hx=f32[2]"),
            *("--seed", "3", "--eval", "--device", "cuda", "--autocast", "bf16", "--loss", "a:b"),
        ]
    )
    assert api.calls[0][1] == TargetOptions(
        "torch.nn:LSTMCell",
        init="1, 2",
        inputs=("f32[1]", "hx=f32[2]"),
        loss="a:b",
        seed=3,
        mode="eval",
        device="cuda",
        autocast="bf16",
    )


@pytest.mark.parametrize("command", ["explain", "verify"])
def test_how_backward_is_called_reaches_the_api(api, command):
    main([command, "model.py", "--inputs", "a", "--inputs", "b", "--api", "grad"])
    assert api.calls[0][1] == TargetOptions("model.py", backward_inputs=("a", "b"), backward_api="grad")


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["report"], ("report", True)),
        (["explain"], ("explain", None, "all hooks")),
        (["explain", "--order"], ("order", None, "all hooks")),
    ],
)
def test_all_hooks_is_asked_for_where_the_text_is_made(api, command, asked):
    main([*command, "model.py", "--all-hooks"])
    assert api.calls[1] == asked


def test_verify_asks_for_a_compiled_run_only_where_it_is_told_to(api):
    main(["verify", "model.py"])
    main(["verify", "model.py", "--compiled"])
    assert [call for call, _ in api.calls] == ["verify", "verify compiled"]


def test_the_later_of_train_and_eval_wins(api):
    main(["report", "model.py", "--eval", "--train"])
    assert api.calls[0][1].mode == "train"


def test_what_the_users_code_prints_goes_to_stderr(api, capsys):
    api.during = lambda: print("from the model")
    main(["report", "model.py"])
    assert capsys.readouterr() == ("the report\n", "from the model\n")


def test_report_writes_the_files_asked_for(api, tmp_path, capsys):
    svg, json, markdown = (str(tmp_path / name) for name in ("a.svg", "a.json", "a.md"))
    assert main(["report", "model.py", "--svg", svg, "--json", json, "--markdown", markdown]) == 0
    assert [Path(path).read_text() for path in (svg, json, markdown)] == ["<svg/>", "{}", "# report"]
    assert capsys.readouterr().err == f"wrote {svg}\nwrote {json}\nwrote {markdown}\n"


def test_a_report_is_shown_before_its_files_fail(api, tmp_path, capsys):
    assert main(["report", "model.py", "--svg", str(tmp_path / "no/a.svg"), "--json", str(tmp_path / "a.json")]) == 4
    out, err = capsys.readouterr()
    assert out == "the report\n"
    assert f"\nwritten: {tmp_path / 'a.json'}\n" in err


def test_two_outputs_in_one_file_are_refused_before_anything_runs(api, capsys):
    assert main(["report", "model.py", "--svg", "a", "--json", "./a"]) == 2
    assert api.calls == []
    assert "a is given for two outputs" in capsys.readouterr().err


def test_an_empty_file_name_is_not_taken_for_none(api, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "model.py", "--json", ""]) == 2
    assert "error: an empty output name" in capsys.readouterr().err
    assert api.calls == []


def test_explain_takes_a_module(api, capsys):
    assert main(["explain", "model.py", "layers.3"]) == 0
    assert api.calls[1] == ("explain", "layers.3")
    assert capsys.readouterr().out == "the explanations\n"


def test_explain_needs_none(api):
    main(["explain", "model.py"])
    assert api.calls[1] == ("explain", None)


def test_explain_with_a_kind_of_hook_probes(api, capsys):
    assert main(["explain", "model.py", "layers.3", "--hook", "retain_grad", "--seed", "3"]) == 0
    assert api.calls == [("probe", TargetOptions("model.py", seed=3), "layers.3", HookKind.RETAIN_GRAD)]
    assert capsys.readouterr().out == "the probe\n"


def test_a_probe_is_shown_as_json_and_fails_by_its_findings(api, capsys):
    api.severities = ("error",)
    assert main(["explain", "model.py", "--hook", "retain_grad", "--json", "--strict"]) == 1
    assert capsys.readouterr().out == '{"findings": []}\n'


def test_a_probe_is_shown_in_no_order(api, capsys):
    assert main(["explain", "model.py", "--hook", "retain_grad", "--order"]) == 2
    assert api.calls == []
    assert "--order with --hook" in capsys.readouterr().err


def test_an_unknown_kind_is_refused_before_anything_runs(api, capsys):
    assert main(["explain", "model.py", "--hook", "register_hook"]) == 2
    assert api.calls == []
    assert "  allowed: Tensor.register_hook, Node.register_hook\n" in capsys.readouterr().err


def test_a_kind_without_a_module_asks_about_the_model_itself(api):
    main(["explain", "model.py", "--hook", "register_full_backward_hook"])
    assert api.calls == [("probe", TargetOptions("model.py"), "", HookKind.MODULE_FULL_BACKWARD)]


def test_explain_writes_json(api, capsys):
    main(["explain", "model.py", "--json"])
    assert capsys.readouterr().out == '{"findings": []}\n'


@pytest.mark.parametrize("command", ["report", "explain"])
@pytest.mark.parametrize(("severities", "status"), [((), 0), (("info",), 0), (("info", "warning"), 1), (("error",), 1)])
def test_strict_fails_for_a_warning_or_an_error(api, command, severities, status):
    api.severities = severities
    assert main([command, "model.py", "--strict"]) == status
    assert main([command, "model.py"]) == 0


def test_draw_passes_what_to_draw(api, capsys):
    assert main(["draw", "model.py", "-o", "a.png", "--depth", "2", "--module", "layers.3", "--hooks-only"]) == 0
    options = {"depth": 2, "hooks_only": True, "module": "layers.3", "forward": False, "both": False}
    options |= {"expand": (), "all": False, "timeout": 10.0, "link_base": None}
    assert api.calls[1] == ("draw", "a.png", options)
    assert capsys.readouterr() == ("", "wrote a.png\n")


@pytest.mark.parametrize("which", ["forward", "both"])
def test_draw_passes_which_graph_to_draw(api, which):
    assert main(["draw", "model.py", "-o", "a.png", f"--{which}"]) == 0
    assert {name for name in ("forward", "both") if api.calls[1][2][name]} == {which}


def test_an_unknown_format_is_refused_before_anything_runs(api, capsys):
    assert main(["draw", "model.py", "-o", "a.bmp"]) == 2
    assert api.calls == []
    assert "  allowed: a file name that ends in .svg, .png, .pdf or .dot\n" in capsys.readouterr().err


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_verify_tells_by_its_status_whether_all_was_right(api, ok, status):
    api.ok = ok
    assert main(["verify", "model.py"]) == status


def test_rule_describes_a_rule(capsys, monkeypatch):
    monkeypatch.setattr("fxgrad.rules.find_page", lambda code: f"about {code}")
    assert main(["rule", "FXG101"]) == 0
    assert capsys.readouterr().out == "about FXG101\n"


# Errors


def failing(api, error):
    def fail():
        raise error

    api.during = fail
    return api


@pytest.mark.parametrize(("kind", "status"), [(UsageError, 2), (TargetError, 3), (OutputError, 4)])
def test_an_error_sets_the_status_and_is_shown_on_stderr(api, capsys, kind, status):
    failing(api, kind("what was given", "what is allowed", "what to try"))
    assert main(["report", "model.py"]) == status
    assert capsys.readouterr() == ("", "error: what was given\n  allowed: what is allowed\n  try: what to try\n")


def test_details_stand_above_the_error(api, capsys):
    failing(api, TargetError("a", "b", "c", "Traceback: the user's"))
    main(["report", "model.py"])
    assert capsys.readouterr().err == "Traceback: the user's\nerror: a\n  allowed: b\n  try: c\n"


@pytest.mark.parametrize("arguments", [["report", "model.py", "--debug"], ["--debug", "report", "model.py"]])
def test_debug_shows_the_whole_traceback(api, capsys, arguments):
    failing(api, TargetError("a", "b", "c", "cut"))
    assert main(arguments) == 3
    err = capsys.readouterr().err
    assert "in trace_target" in err
    assert "cut" not in err.splitlines()
    assert err.endswith("error: a\n  allowed: b\n  try: c\n")


def test_a_mistake_of_fxgrad_is_no_finding(api, capsys):
    failing(api, KeyError("x"))
    assert main(["report", "model.py"]) == 70
    assert capsys.readouterr().err == (
        "error: fxgrad itself failed: KeyError: 'x'\n  allowed: no error of this kind: this is a bug in fxgrad\n  "
        "try: the same command with --debug, which shows where; please report it\n"
    )


def test_an_exit_of_the_users_code_is_no_success(api, capsys):
    failing(api, SystemExit(0))
    assert main(["report", "model.py"]) == 3
    assert "error: SystemExit while tracing model.py\n" in capsys.readouterr().err


def test_an_interrupt_is_short(api, capsys):
    failing(api, KeyboardInterrupt())
    assert main(["report", "model.py"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_what_a_terminal_would_obey_is_escaped(api, capsys):
    failing(api, TargetError("a\x1b[31m\u202e", "é 🔥", "two\nlines", "\ttab"))
    main(["report", "model.py"])
    assert capsys.readouterr().err == ("\ttab\nerror: a\\x1b[31m\\u202e\n  allowed: é 🔥\n  try: two\nlines\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command."),
        (["report"], "Missing argument 'TARGET'."),
        (["report", "model.py", "--sgv", "x"], "No such option"),
        (["report", "model.py", "--seed", "many"], "Invalid value for '--seed'"),
        (["report", "model.py", "--seed", "-1"], "Invalid value for '--seed'"),
        (["report", "model.py", "--autocast", "f8"], "Invalid value for '--autocast'"),
        (["draw", "model.py"], "Missing option '-o' / '--output'."),
        (["draw", "model.py", "-o", "a.svg", "--depth", "-1"], "Invalid value for '--depth'"),
        (["verify", "model.py", "extra"], "Got unexpected extra argument"),
    ],
)
def test_what_click_refuses_has_the_shape_of_every_error(capsys, arguments, message):
    assert main(arguments) == 2
    first, allowed, suggestion = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {message.rstrip('.')}")
    assert allowed.startswith("  allowed: fxgrad ")
    assert suggestion.startswith("  try: fxgrad ")


def test_help_lists_the_commands_that_are_built_in_their_order(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["report", "explain", "draw", "verify", "check", "rule"]
    assert not any("..." in line for line in lines)


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fxgrad {fxgrad.__version__}\n"

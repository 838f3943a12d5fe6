"""Findings as a linter tells them: their lines, their order, and each format."""

import json
import re

import pytest
from msgspec.structs import replace

from fxgrad.graph import Explanation, Source
from fxgrad.render.findings import Finding, format_findings, is_grave, list_findings, sort_findings
from fxgrad.rules import list_codes

SILENT = Finding("model.py", 12, "FXG104", "warning", "`show` never fires", "no use.", "use it", ("layers.3",))


def changed(**fields):
    return replace(SILENT, **fields)


def located(explanation, graph):
    (finding,) = list_findings(graph, [explanation], target="train.py")
    return finding.file, finding.line


def about_a_hook(program, registered):
    program.hooks[0] = replace(program.hooks[0], registered=registered)
    program.sites[0] = replace(program.sites[0], hook=program.hooks[0])
    graph = program.graph()
    return Explanation("FXG101", "warning", "", "", "", site=graph.sites[0]), graph


def test_a_finding_is_at_the_line_that_registered_the_hook(linear):
    assert located(*about_a_hook(linear, Source("train.py", 40))) == ("train.py", 40)


def test_a_finding_is_where_the_hooks_function_is_defined_if_nobody_saw_it_registered(linear):
    assert located(*about_a_hook(linear, None)) == ("model.py", 5)


def test_a_finding_about_a_hook_names_its_module(linear):
    told, graph = about_a_hook(linear, None)
    assert next(list_findings(graph, [told], target="train.py")).owners == ("fc",)


def test_a_finding_about_no_line_is_at_the_target(linear):
    assert located(Explanation("FXG204", "warning", "", "", "", owner="w"), linear.graph()) == ("train.py", None)


def test_a_finding_about_a_line_is_there(linear):
    told = Explanation("FXG201", "warning", "", "", "", owner="w", source=Source("model.py", 7))
    assert located(told, linear.graph()) == ("model.py", 7)


def test_an_error_comes_before_the_warnings_of_its_file():
    found = [changed(line=9), changed(line=100, severity="error"), changed(file="a.py")]
    ordered = [(finding.file, finding.line) for finding in sort_findings(found)]
    assert ordered == [("a.py", 12), ("model.py", 100), ("model.py", 9)]


def test_findings_are_in_the_order_of_files_lines_and_codes():
    found = [changed(file="b.py"), changed(line=100), changed(code="FXG101"), changed(line=9), changed(line=None)]
    ordered = [(finding.file, finding.line, finding.code) for finding in sort_findings(found)]
    assert ordered == [
        ("b.py", 12, "FXG104"),
        ("model.py", 9, "FXG104"),
        ("model.py", 12, "FXG101"),
        ("model.py", 100, "FXG104"),
        ("model.py", None, "FXG104"),
    ]


def test_the_same_finding_at_one_line_is_told_once_with_all_that_it_is_about():
    several = sort_findings([SILENT, changed(owners=("layers.2",), because="too."), SILENT])
    assert several == (changed(owners=("layers.3", "layers.2")),)


def test_different_headlines_at_one_line_are_two_findings():
    assert len(sort_findings([SILENT, changed(headline="`other` never fires")])) == 2


@pytest.mark.parametrize(("severity", "grave"), [("info", False), ("warning", True), ("error", True)])
def test_warnings_and_errors_count(severity, grave):
    assert is_grave(changed(severity=severity)) is grave


# Formats


def test_a_line_of_text_has_place_code_severity_and_what_it_is_about():
    assert format_findings([SILENT], "text") == "model.py:12: FXG104 warning `show` never fires (`layers.3`)"


def test_what_the_headline_names_is_not_named_again():
    told = changed(headline="no gradient reaches `w`", owners=("w",))
    assert format_findings([told], "text") == "model.py:12: FXG104 warning no gradient reaches `w`"


def test_a_line_of_text_is_one_line_that_prints():
    told = changed(file="mo\ndel.py", headline="`\x1b[31m` \u202e never fires", owners=("a\nb",))
    assert format_findings([told], "text").isprintable()


@pytest.mark.parametrize(("form", "text"), [("text", ""), ("github", ""), ("json", "[]")])
def test_without_findings_there_is_nothing_to_tell(form, text):
    assert format_findings([], form) == text


def test_json_is_a_list_of_the_findings_fields():
    assert json.loads(format_findings([SILENT, changed(line=None, owners=())], "json")) == [
        {
            "file": "model.py",
            "line": 12,
            "code": "FXG104",
            "severity": "warning",
            "headline": "`show` never fires",
            "because": "no use.",
            "fix": "use it",
            "owners": ["layers.3"],
        },
        {
            "file": "model.py",
            "line": None,
            "code": "FXG104",
            "severity": "warning",
            "headline": "`show` never fires",
            "because": "no use.",
            "fix": "use it",
        },
    ]


def test_a_github_annotation_has_level_place_and_title():
    assert format_findings([SILENT, changed(severity="info", line=None)], "github").splitlines() == [
        "::warning file=model.py,line=12,title=FXG104::`show` never fires (`layers.3`)%0Ano use.%0Afix: use it",
        "::notice file=model.py,title=FXG104::`show` never fires (`layers.3`)%0Ano use.%0Afix: use it",
    ]


def test_a_github_annotation_cannot_be_left_by_what_is_in_it():
    told = changed(file="a,b:c%.py\r\n::error::x", because="100%\r\n::stop-commands::x")
    (line,) = format_findings([told], "github").splitlines()
    assert line == (
        "::warning file=a%2Cb%3Ac%25.py%0D%0A%3A%3Aerror%3A%3Ax,line=12,title=FXG104::"
        "`show` never fires (`layers.3`)%0A100%25%0D%0A::stop-commands::x%0Afix: use it"
    )


def run_of(*findings):
    log = json.loads(format_findings(findings, "sarif"))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    return run


def test_a_sarif_log_names_its_tool_and_describes_every_rule():
    driver = run_of()["tool"]["driver"]
    assert driver["name"] == "fxgrad"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", driver["semanticVersion"])
    assert [rule["id"] for rule in driver["rules"]] == list(list_codes())
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in driver["rules"])


def test_a_sarif_log_without_findings_has_an_empty_list_of_results():
    assert run_of()["results"] == []


def test_a_sarif_result_refers_to_its_rule_and_its_place():
    run = run_of(SILENT, changed(severity="info", line=None, owners=()))
    first, second = run["results"]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "FXG104"
    assert first["level"] == "warning"
    assert first["message"] == {"text": "`show` never fires (`layers.3`)\nno use.\nfix: use it"}
    assert first["locations"] == [
        {
            "physicalLocation": {"artifactLocation": {"uri": "model.py"}, "region": {"startLine": 12}},
            "logicalLocations": [{"fullyQualifiedName": "layers.3"}],
        }
    ]
    assert second["level"] == "note"
    assert second["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": "model.py"}}}]


def test_a_file_name_becomes_a_uri():
    (result,) = run_of(changed(file="my models/a#1 é.py"))["results"]
    location = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location == {"uri": "my%20models/a%231%20%C3%A9.py"}

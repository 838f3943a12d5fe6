"""Every sample prints the report beside it, and its predictions hold in a real backward."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.commands import printed_by, without_versions

SAMPLES = sorted(path.stem for path in (Path(__file__).parents[2] / "samples").glob("*.py"))
VERBS = ("report", "check", "verify")
EMULATED = {"lstm_cell": ("", " --device cuda")}


def commands_of(sample: str) -> list[str]:
    options = EMULATED.get(sample, ("",))
    return [f"fxgrad {verb} samples/{sample}.py{option}" for option in options for verb in VERBS]


@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_prints_the_report_beside_it(sample: str, repository: Path, overwrite: bool) -> None:
    printed = [f"$ {command}\n{without_versions(printed_by(command, repository))}\n" for command in commands_of(sample)]
    golden = repository / "samples" / f"{sample}.report.txt"
    if overwrite:
        golden.write_text("\n".join(printed), encoding="utf-8")
    assert "\n".join(printed) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("sample", SAMPLES)
def test_predictions_for_sample_hold(sample: str, repository: Path) -> None:
    golden = (repository / "samples" / f"{sample}.report.txt").read_text(encoding="utf-8")
    summaries = re.findall(r"^\d+ hook sites?, .* compared: (\d+) wrong, (\d+) unknown$", golden, re.MULTILINE)
    listed = re.findall(r"^  unknown ", golden, re.MULTILINE)
    assert summaries
    assert all(wrong == "0" for wrong, _ in summaries)
    assert sum(int(unknown) for _, unknown in summaries) == len(listed)


@pytest.mark.parametrize("sample", SAMPLES)
def test_check_tells_the_warnings_and_errors_of_the_report(sample: str, repository: Path) -> None:
    golden = (repository / "samples" / f"{sample}.report.txt").read_text(encoding="utf-8")
    told = re.findall(r"^  (FXG\d+)\s+(error|warning|info): ", golden, re.MULTILINE)
    listed = re.findall(r"^\S+: (FXG\d+) (\w+) ", golden, re.MULTILINE)
    assert set(listed) == {(code, severity) for code, severity in told if severity != "info"}


def test_every_report_has_its_sample(repository: Path) -> None:
    reports = {name.removesuffix(".report.txt") for name in os.listdir(repository / "samples") if name.endswith(".txt")}
    assert reports == set(SAMPLES)

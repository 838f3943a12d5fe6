"""Makes tests/support importable, and shows at the end of the run what the oracles tried."""

import sys
from pathlib import Path

sys.path.append(str(next(parent for parent in Path(__file__).parents if parent.name == "tests") / "support"))

import pytest
import torch
from module_hooks import notebook  # noqa: F401
from tally import report


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The tensors are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter):
    lines = list(report())
    if lines:
        terminalreporter.section("what the oracles tried")
        terminalreporter.write_line("\n".join(lines))

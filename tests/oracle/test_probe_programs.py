"""A hook of each kind probed in every program of tests/support/hooked_programs and at the modules in it."""

import pytest
from hooked_programs import PROGRAMS
from module_hooks import Notebook
from probed_hooks import GLOBAL, LOCAL, assert_as_in_reality

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def paths_of(name):
    notebook = Notebook()
    model, _, _ = PROGRAMS[name](notebook)
    notebook.close()
    return [path for path, _ in model.named_modules()]


@pytest.mark.parametrize("kind", [*LOCAL, *GLOBAL], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_probed_hook_is_the_registered_one(name, kind):
    for path in [""] if kind.is_global else paths_of(name):
        assert_as_in_reality(PROGRAMS[name], path, kind)

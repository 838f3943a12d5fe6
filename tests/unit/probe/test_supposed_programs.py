"""A supposed hook is the registered one: the same records, and what a real backward gives it and all other hooks."""

import pytest
from hooked_programs import INEXACT, PROGRAMS
from module_hooks import Notebook
from supposed_hooks import LOCAL, attempt

EXACT = [name for name in PROGRAMS if name not in INEXACT]


def paths_of(name):
    notebook = Notebook()
    model, _, _ = PROGRAMS[name](notebook)
    notebook.close()
    return [path for path, _ in model.named_modules()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", EXACT)
def test_a_supposed_hook_is_the_registered_one(name, kind):
    for path in paths_of(name):
        trial = attempt(PROGRAMS[name], path, kind)
        assert not trial.wrong, f"{path}: " + "\n".join(trial.wrong)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", INEXACT)
def test_where_the_records_do_not_tell_all_it_says_so_and_is_right_about_backward(name, kind):
    caveats = ""
    for path in paths_of(name):
        trial = attempt(PROGRAMS[name], path, kind)
        caveats += "\n".join(trial.supposed.caveats)
        assert (trial.supposed.refused is None) == (trial.error is None)
        assert not trial.calls, f"{path}: " + "\n".join(trial.calls)
        assert trial.supposed.caveats or not trial.records, f"{path}: " + "\n".join(trial.records)
    assert kind.is_legacy or INEXACT[name] in caveats

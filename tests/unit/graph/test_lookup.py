from __future__ import annotations

import pytest

from fxgrad.errors import UsageError
from fxgrad.graph import HookKind
from fxgrad.graph.lookup import find_hook_kind


def refusal(text):
    with pytest.raises(UsageError) as caught:
        find_hook_kind(text)
    return caught.value


@pytest.mark.parametrize("kind", HookKind)
def test_every_kind_is_found_by_its_value(kind):
    assert find_hook_kind(kind.value) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("register_backward_hook", HookKind.MODULE_BACKWARD),
        ("register_full_backward_hook", HookKind.MODULE_FULL_BACKWARD),
        ("register_prehook", HookKind.NODE_PRE),
        ("retain_grad", HookKind.RETAIN_GRAD),
        ("multi_grad_hook", HookKind.MULTI_GRAD),
    ],
)
def test_an_end_of_one_value_is_enough(text, kind):
    assert find_hook_kind(text) is kind


def test_a_value_that_also_ends_another_is_taken_as_it_is():
    values = {kind.value for kind in HookKind}
    assert all(find_hook_kind(value).value == value for value in values)


def test_an_end_of_two_values_lists_both():
    assert str(refusal("register_hook")) == (
        "'register_hook' can mean 2 kinds of hook\n"
        "  allowed: Tensor.register_hook, Node.register_hook\n"
        "  try: Tensor.register_hook"
    )


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("register_ful_backward_hook", "Module.register_full_backward_hook"),
        ("torch.nn.Module.register_backward_hook", "Module.register_backward_hook"),
        ("retain_gard", "Tensor.retain_grad"),
    ],
)
def test_an_unknown_kind_gets_the_nearest(text, suggestion):
    assert refusal(text).suggestion == suggestion


def test_an_unknown_kind_lists_all():
    error = refusal("full")
    assert error.given == "no kind of hook is called 'full'"
    assert error.allowed.split(", ") == [kind.value for kind in HookKind]


@pytest.mark.parametrize("text", ["", "\x1b[31m", "\ud800"])
def test_odd_texts_are_refused(text):
    assert refusal(text).given.isprintable()


def test_a_kind_stands_for_itself():
    assert find_hook_kind(HookKind.TENSOR) is HookKind.TENSOR

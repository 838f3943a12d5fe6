"""The code of a backward is read only where it is what runs, and reading it runs, keeps and changes nothing."""

from __future__ import annotations

import functools
import gc
import linecache
import types
import weakref

import pytest
import torch
from read_backwards import ALWAYS, leaf, statuses

from fxgrad.observe.autograd import backward_code


def test_code_that_is_not_what_its_file_says_is_not_read(tmp_path):
    source = "def backward(ctx, grad):\n    return grad * 2, None, None\n"
    file = tmp_path / "changing.py"
    file.write_text(source)
    names = {}
    exec(compile(source, str(file), "exec", dont_inherit=True), names)
    assert statuses(names["backward"]) == ALWAYS
    exec(compile(source, str(file), "exec", dont_inherit=True), names)
    file.write_text(source.replace("grad * 2", "None"))
    linecache.checkcache(str(file))
    assert statuses(names["backward"]) == ["unknown", "unknown"]


def test_code_without_a_source_is_not_read():
    names = {}
    exec("def backward(ctx, grad):\n    return grad * 2, None, None\n", names)
    assert statuses(names["backward"]) == ["unknown", "unknown"]


def made_from(text, name, names=None):
    """The backward of a program, with its text where Python looks for it."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    names = {} if names is None else names
    exec(compile(text, name, "exec", dont_inherit=True), names)
    return names["backward"]


def test_deep_code_is_given_up():
    deep = "grad" + " + 1" * 300
    backward = made_from(f"def backward(ctx, grad):\n    return ({deep}), None, None\n", "<deep>")
    assert statuses(backward) == ["unknown", "unknown"]


def test_tuples_in_tuples_and_long_ones_take_no_time():
    doubled = "".join(["    nested = (nested, nested)\n    long = long + long\n" for _ in range(30)])
    text = f"def backward(ctx, grad):\n    nested = long = (grad, None)\n{doubled}    return grad, nested, long\n"
    assert statuses(made_from(text, "<nested>"), predict=False) == ["tensor", "unknown"]


def test_global_names_that_a_class_of_the_programs_looks_up_are_not_followed():
    class Names(dict):
        def __getitem__(self, name):
            return types.SimpleNamespace(neg=lambda value: None) if name == "torch" else super().__getitem__(name)

    text = "def backward(ctx, grad):\n    return torch.neg(grad), None, None\n"
    assert statuses(made_from(text, "<names>", Names(torch=torch))) == ["unknown", "none"]


def test_code_that_a_program_replaces_is_read_again():
    def backward(ctx, grad):
        return grad, None, None

    def other(ctx, grad):
        return None, grad, None

    assert statuses(backward) == ALWAYS
    backward.__code__ = other.__code__
    assert statuses(backward) == ["none", "tensor"]


def test_code_is_given_up_where_the_program_leaves_too_little_of_the_stack(monkeypatch):
    def value(self, expression, state):
        raise RecursionError

    monkeypatch.setattr(backward_code._Reader, "value", value)
    assert statuses(lambda ctx, grad: (grad, None, None)) == ["unknown", "unknown"]


def test_nothing_of_the_program_is_run():
    ran = []

    class Noting:
        def __getattr__(self, name):
            ran.append(name)
            raise AttributeError(name)

        def __call__(self, *args):
            ran.append(args)

        def __bool__(self):
            ran.append("bool")
            return True

        def __eq__(self, other):
            ran.append("eq")
            return False

        def __hash__(self):
            ran.append("hash")
            return 0

    noting = Noting()

    def backward(ctx, grad):
        if noting == ctx.scale or noting or noting.flag:
            noting(grad)
        return grad, ctx.scale, None

    statuses(backward, leaf(), leaf(), noting, predict=False)
    assert ran == []


def test_no_unpack_hook_of_a_saved_tensor_is_called():
    called = []

    def unpack(packed):
        called.append(packed)
        return packed

    def reads(ctx, grad):
        x, _, _ = ctx.saved_tensors
        return x * grad, None, None

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        assert statuses(reads, predict=False) == ALWAYS
    assert called == []


def test_nothing_that_a_context_holds_is_kept():
    class Model:
        pass

    def calls(ctx, grad):
        return ctx.scale(grad), None, None

    model = Model()
    kept = weakref.ref(model)
    made = functools.partial(lambda held, grad: grad, model)
    statuses(calls, leaf(), leaf(), made, predict=False)

    def holds(ctx, grad, *, held=model):
        return grad * 2, None, None

    assert statuses(holds) == ALWAYS
    del model, made, holds
    gc.collect()
    assert kept() is None


def test_a_device_that_says_to_be_the_source_is_not_read():
    def backward(ctx, grad):
        return grad, None, None

    backward.__code__ = backward.__code__.replace(co_filename="/dev/zero")
    assert statuses(backward) == ["unknown", "unknown"]


def of_wrong_arguments(ctx):
    return None


def of_isinstance_of_nothing(ctx, grad):
    return (grad if isinstance(grad) else None), None, None


def of_a_step_of_zero(ctx, grad):
    return (grad, grad, grad)[::0]


def of_too_many_defaults(ctx, grad, more=1):
    return grad, more, None


def of_a_generator(ctx, grad):
    yield grad
    return grad, None, None


of_too_many_defaults.__defaults__ = (1, 2, 3, 4, 5)
WRONG = [of_isinstance_of_nothing, of_a_step_of_zero, of_a_generator, of_too_many_defaults]


@pytest.mark.parametrize("backward", WRONG)
def test_a_backward_that_raises_is_no_reason_to_raise(backward):
    assert len(statuses(backward, predict=False)) == 2


def test_no_hook_is_said_to_fire_behind_a_backward_that_cannot_be_called():
    assert statuses(of_wrong_arguments, predict=False) == []

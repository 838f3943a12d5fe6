"""What is read from the code of hooks: whether it may return a value."""

import functools

import pytest
import torch

from fxgrad.observe.autograd.python_code import may_return_a_value


class Hook:
    def __call__(self, grad):
        return grad

    def prints(self, grad):
        print(grad)


def yields(grad):
    yield grad


async def waits(grad):
    pass


def returns_either(grad):
    return grad if grad.dim() else None


def raises(grad):
    raise ValueError


@pytest.mark.parametrize("hook", [Hook(), yields, waits, returns_either, functools.partial(returns_either)])
def test_code_that_may_return_a_value_is_recognised(hook):
    assert may_return_a_value(hook) is True


@pytest.mark.parametrize("hook", [Hook().prints, raises, functools.partial(Hook().prints)])
def test_code_that_returns_none_is_recognised(hook):
    assert may_return_a_value(hook) is False


@pytest.mark.parametrize("hook", [print, functools.partial(print), torch.neg])
def test_code_that_is_not_python_tells_nothing(hook):
    assert may_return_a_value(hook) is None

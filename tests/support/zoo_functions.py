"""Networks with autograd Functions of their own, in every style, and with double backward."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import Function, forward_ad


class _Runs(nn.Module):
    """A Linear, then the given function on what it returns."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x):
        return self.function(self.linear(x))


def _on(function):
    return _Runs(function), (torch.randn(2, 3),), {}


def _applied(function):
    """The apply is looked up when it is called: one that was kept cannot be seen on every torch."""

    def apply(x):
        return function.apply(x)

    return _on(apply)


class _Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


def function_with_ctx():
    """The old style: forward gets the context."""
    return _applied(_Cube)


class _Scale(Function):
    @staticmethod
    def forward(x, factor):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def function_with_setup_context():
    """The new style, with setup_context and an argument that is no tensor."""
    return _on(lambda x: _Scale.apply(x, 2.5))


class _Options(Function):
    @staticmethod
    def forward(ctx, x, mode, *rest):
        ctx.mode, ctx.count = mode, len(rest)
        return x.exp() if mode["exp"] else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None, *[None] * ctx.count


def function_with_odd_arguments():
    """A dict, None, a str, a dtype and a list of tensors among the arguments."""
    return _on(lambda x: _Options.apply(x, {"exp": True}, None, "text", torch.float64, [x.detach()]))


class _Split(Function):
    @staticmethod
    def forward(ctx, x):
        order = x.argsort(dim=-1)
        ctx.mark_non_differentiable(order)
        return x.clone(), order, x * 2, "label"

    @staticmethod
    def backward(ctx, first, order, second, label):
        return first + 2 * second


def function_with_several_outputs():
    """Several outputs: one marked non-differentiable, one no tensor, one unused."""
    return _on(lambda x: _Split.apply(x)[:2])


class _Increment(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx, grad):
        return grad * 1


def function_that_writes():
    """mark_dirty: the Function changes its argument and returns it."""
    return _on(lambda x: _Increment.apply(x * 2) + 1)


def function_that_writes_a_view():
    """mark_dirty on a view: the base gets a CopySlices node."""

    def run(x):
        x = x * 2
        _Increment.apply(x[0])
        return x

    return _on(run)


class _Unmaterialised(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, first, second):
        return None if first is None else first * 2


def function_without_materialised_grads():
    """set_materialize_grads(False): backward gets None for the output that nobody uses."""
    return _on(lambda x: _Unmaterialised.apply(x)[0])


class _Forwards(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.saved_tensors[0].cos()


def function_with_forward_mode():
    """save_for_forward and jvp."""
    return _applied(_Forwards)


class _Outer(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _Cube.apply(x) + 1

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0] ** 2


def function_in_function():
    """A Function whose forward applies another one."""
    return _on(lambda x: _Outer.apply(x).sum())


class _Same(Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return -grad


def function_that_returns_its_input():
    """Gradient reversal: forward returns its argument, which becomes a view of it."""
    return _applied(_Same)


class _ViewAs(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def function_that_returns_a_view():
    """The view that a Function makes of its argument."""
    return _on(lambda x: _ViewAs.apply(x) + 1)


class _WithHelper(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return x * y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y, grad * x


def function_under_vmap():
    """A Function with generate_vmap_rule, applied inside torch.vmap."""
    return _on(lambda x: torch.vmap(_WithHelper.apply)(x, x.detach()))


class _Penalty(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        score = self.net(x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return score.mean() + ((slope.norm(dim=1) - 1) ** 2).mean()


def gradient_penalty():
    """Double backward: autograd.grad with create_graph=True inside forward."""
    return _Penalty(), (torch.randn(2, 3),), {}


def double_backward_of_function():
    """autograd.grad with create_graph=True through a Function of the user's."""

    def run(x):
        (slope,) = torch.autograd.grad(_Cube.apply(x).sum(), x, create_graph=True)
        return slope * 2

    return _on(run)


class _Adapts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        fast = self.weight
        for _ in range(2):
            loss = (x @ fast).pow(2).mean()
            (grad,) = torch.autograd.grad(loss, fast, create_graph=True)
            fast = fast - 0.1 * grad
        return (x @ fast).mean()


def forward_mode():
    """Forward-mode differentiation with dual tensors in forward."""

    def run(x):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            return forward_ad.unpack_dual(dual.sin()).tangent * x

    return _on(run)


def inner_steps():
    """Two gradient steps inside forward (as MAML does): the graph goes through both."""
    return _Adapts(), (torch.randn(2, 3),), {}


class _Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            energy = self.net(x).tanh().sum()
            (force,) = torch.autograd.grad(energy, x)
        return self.net(x - force)


def gradient_without_graph():
    """autograd.grad without create_graph: what it gives is a constant for the graph."""
    return _Energy(), (torch.randn(2, 3),), {}

"""Networks that change how PyTorch runs: checkpoints, transforms, grad and autocast modes, parametrizations, hooks."""

from __future__ import annotations

import warnings

import torch
import torch.nn.attention
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class _Runs(nn.Module):
    """Runs the given function on its two Linears and its argument."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(3, 3), nn.Linear(3, 3), function

    def forward(self, x):
        return self.function(self, x)


def _on(function):
    return _Runs(function), (torch.randn(2, 3),), {}


# Checkpoints


def checkpoint_non_reentrant():
    """checkpoint(use_reentrant=False)."""
    return _on(lambda self, x: checkpoint(self.second, self.first(x).tanh(), use_reentrant=False) * 2)


def checkpoint_reentrant():
    """checkpoint(use_reentrant=True): forward runs under no_grad, and again in backward."""
    return _on(lambda self, x: checkpoint(self.second, self.first(x).tanh(), use_reentrant=True) * 2)


class _Segments(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3), nn.Tanh())

    def forward(self, x):
        return checkpoint_sequential(self.layers, 2, x, use_reentrant=False)


def checkpoint_with_dropout():
    """checkpoint_sequential in two segments, which keeps the random state."""
    return _Segments(), (torch.randn(2, 3, requires_grad=True),), {}


def checkpoint_nested():
    """A non-reentrant checkpoint inside another."""

    def run(self, x):
        def inner(y):
            return checkpoint(torch.sin, self.second(y), use_reentrant=False)

        return checkpoint(inner, self.first(x), use_reentrant=False)

    return _on(run)


# Transforms


def functional_call():
    """torch.func.functional_call with parameters that were made in forward."""

    def run(self, x):
        weights = {name: p * 2 for name, p in self.first.named_parameters()}
        return torch.func.functional_call(self.first, weights, (x,)) + self.second(x)

    return _on(run)


def func_grad():
    """torch.func.grad in forward."""
    return _on(lambda self, x: torch.func.grad(lambda y: self.first(y).tanh().sum())(x))


def func_vmap():
    """torch.vmap over a function that closes over parameters."""
    return _on(lambda self, x: torch.vmap(lambda row: self.first.weight @ row + self.first.bias)(x))


def func_vjp():
    """torch.func.vjp in forward."""

    def run(self, x):
        out, pull = torch.func.vjp(lambda y: y.sin() * self.first.bias, x)
        return out + pull(torch.ones_like(out))[0]

    return _on(run)


def func_jvp():
    """torch.func.jvp in forward."""

    def run(self, x):
        out, tangent = torch.func.jvp(lambda y: y.exp() * self.first.bias, (x,), (torch.ones_like(x),))
        return out * tangent

    return _on(run)


def func_jacobian():
    """torch.func.jacrev and hessian of a function that closes over parameters."""

    def run(self, x):
        return torch.func.jacrev(self.first)(x[0]), torch.func.hessian(lambda y: (self.first(y) ** 3).sum())(x[0])

    return _on(run)


# Parametrizations


def weight_norm():
    """parametrizations.weight_norm."""
    return parametrizations.weight_norm(nn.Linear(3, 4)), (torch.randn(2, 3),), {}


def spectral_norm():
    """parametrizations.spectral_norm: a power iteration writes buffers in forward."""
    return parametrizations.spectral_norm(nn.Linear(3, 4)), (torch.randn(2, 3),), {}


def orthogonal():
    """parametrizations.orthogonal."""
    return parametrizations.orthogonal(nn.Linear(3, 3)), (torch.randn(2, 3),), {}


class _Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def own_parametrization():
    """A parametrization of the user's, read several times under parametrize.cached()."""
    model = nn.Linear(3, 3)
    parametrize.register_parametrization(model, "weight", _Symmetric())

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = model

        def forward(self, x):
            with parametrize.cached():
                return self.linear(self.linear(x)) + self.linear.weight.sum()

    return Cached(), (torch.randn(2, 3),), {}


def old_weight_norm():
    """torch.nn.utils.weight_norm: a forward pre-hook computes the weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(3, 4)), (torch.randn(2, 3),), {}


def old_spectral_norm():
    """torch.nn.utils.spectral_norm: a forward pre-hook, with buffers that it writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(nn.Linear(3, 4)), (torch.randn(2, 3),), {}


def pruned():
    """torch.nn.utils.prune: a mask, applied by a forward pre-hook."""
    model = nn.Linear(3, 4)
    prune.l1_unstructured(model, "weight", 0.5)
    return model, (torch.randn(2, 3),), {}


# Grad, inference and autocast modes


def no_grad_region():
    """no_grad, enable_grad inside of it, and set_grad_enabled."""

    def run(self, x):
        with torch.no_grad():
            frozen = self.first(x)
            with torch.enable_grad():
                live = self.second(x)
        torch.set_grad_enabled(False)
        scale = live.abs().max()
        torch.set_grad_enabled(True)
        return live * frozen / scale

    return _on(run)


def inference_region():
    """inference_mode around a part whose result is a constant for the rest."""

    def run(self, x):
        with torch.inference_mode():
            bias = self.first(x).mean(0)
        return self.second(x) + bias.clone()

    return _on(run)


class _Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    @torch.no_grad()
    def targets(self, x):
        return self.linear(x).softmax(-1)

    def forward(self, x):
        return -(self.targets(x) * self.linear(x).log_softmax(-1)).sum()


def no_grad_method():
    """A method that is decorated with no_grad."""
    return _Decorated(), (torch.randn(2, 3),), {}


def autocast_region():
    """autocast to bfloat16 on the CPU, with a region inside that is disabled, and cached casts of weights."""

    def run(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.first(x) @ self.first.weight
            with torch.autocast("cpu", enabled=False):
                z = self.second(y.float())
            return self.first(z)

    return _on(run)


def default_dtype():
    """Tensors that are made under another default dtype."""

    def run(self, x):
        torch.set_default_dtype(torch.float64)
        wide = torch.ones(3)
        torch.set_default_dtype(torch.float32)
        return self.first(x) * wide

    return _on(run)


def chosen_kernels():
    """sdpa_kernel and torch.backends flags choose other kernels, which make other nodes."""

    def run(self, x):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            y = torch.nn.functional.scaled_dot_product_attention(self.first(x)[None], x[None], x[None])
        return self.second(y[0]) + torch.nn.functional.scaled_dot_product_attention(y, y, y)[0]

    return _on(run)


def chosen_recurrent_kernel():
    """An LSTM with oneDNN disabled: it is decomposed."""
    lstm = nn.LSTM(3, 3)

    class Disables(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, x):
            with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
                return self.lstm(x)[0]

    return Disables(), (torch.randn(2, 1, 3),), {}


def saved_tensors_hooks():
    """saved_tensors_hooks pack what is saved for backward."""

    def run(self, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t):
            return self.second(self.first(x).exp()).sin()

    return _on(run)


def default_device():
    """A default device as a context, which is a TorchFunctionMode of PyTorch's."""

    def run(self, x):
        with torch.device("cpu"):
            return self.first(x) * torch.ones(3) + torch.arange(3)

    return _on(run)


# TorchScript


def scripted_submodule():
    """A scripted submodule and a scripted function, of which no mode sees the inside."""
    scripted = _quietly_scripted(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))

    class Has(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = scripted, nn.Linear(3, 2)

        def forward(self, x):
            return self.outer(self.inner(x) * 2)

    return Has(), (torch.randn(2, 3),), {}


def _quietly_scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


# Hooks


def forward_hooks():
    """Forward pre-hooks and hooks that replace arguments and results, with and without keywords."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda module, args, result: result + args[0])
    model[1].register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)
    model[2].register_forward_hook(lambda module, args, kwargs, result: (result, result * 2), with_kwargs=True)
    return model, (torch.randn(2, 3),), {}


def backward_hooks():
    """Every kind of backward hook on modules and parameters."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model[1].register_full_backward_pre_hook(lambda module, grad_output: None)
    model[2].register_backward_hook(lambda module, grad_input, grad_output: None)
    model[0].weight.register_hook(lambda grad: None)
    model[2].bias.register_post_accumulate_grad_hook(lambda parameter: None)
    return model, (torch.randn(2, 3, requires_grad=True),), {}


def full_hook_on_itself():
    """Full hooks on the outermost module, two inputs, two results."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, a, b):
            return self.linear(a) * b, a + b

    model = Two()
    model.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model.register_full_backward_pre_hook(lambda module, grad_output: None)
    return model, (torch.randn(2, 3, requires_grad=True), torch.randn(3)), {}


def hooks_added_inside():
    """Hooks on tensors, nodes and modules that forward itself registers."""

    def run(self, x):
        y = self.first(x)
        y.register_hook(lambda grad: None)
        y.retain_grad()
        y.grad_fn.register_hook(lambda grad_input, grad_output: None)
        handle = self.second.register_full_backward_hook(lambda module, grad_input, grad_output: None)
        z = self.second(y)
        handle.remove()
        return z

    return _on(run)


def hooks_that_add_hooks():
    """A forward hook that registers backward hooks on the result, and a forward hook on another module."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))

    def add(module, args, result):
        result.register_hook(lambda grad: None)
        handle = model[1].register_forward_hook(lambda module, args, result: result * 2)
        model[1].register_forward_hook(lambda module, args, result: handle.remove())

    model[0].register_forward_hook(add)
    return model, (torch.randn(2, 3),), {}

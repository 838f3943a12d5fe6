"""Programs with hooks of other kinds, and with checkpoints."""

from __future__ import annotations

from module_hooks import FromFunction, Notebook
from probed_hooks import Built
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fxgrad.graph import HookKind
from hooked_programs.making import around, given, inner, leaf, program

# Hooks that are there


def tensor_hooks(notebook: Notebook) -> nn.Module:
    """Hooks that forward registers inside and outside of a module, on its argument and on its result."""

    def module(self, x):
        product = x * self.weight
        product.register_hook(notebook.tensor("result, inside"))
        product.retain_grad()
        x.register_hook(notebook.tensor("argument, inside"))
        return product

    def forward(self, x):
        x.register_hook(notebook.tensor("argument, before"))
        y = self.m(x)
        y.register_hook(notebook.tensor("result, outside"))
        y.grad_fn.register_hook(notebook.on_node("node of the result"))
        x.register_hook(notebook.tensor("argument, after"))
        return y * 2

    return around(FromFunction(module), forward)


@program
def hooks_on_tensors_and_nodes(notebook):
    return given(tensor_hooks(notebook), inner(3))


@program
def legacy_hooks_beside_hooks_on_nodes(notebook):
    model = tensor_hooks(notebook)
    notebook.legacy(model, "legacy")
    notebook.legacy(model.m, "legacy m")
    return given(model, inner(3))


@program
def removed_legacy_hook(notebook):
    model = nn.Linear(3, 3)
    notebook.legacy(model, "removed").remove()
    return given(model, leaf())


@program
def removed_full_hook(notebook):
    model = nn.Linear(3, 3)
    notebook.full(model, "removed").remove()
    return given(model, leaf())


def hooked_everywhere(notebook: Notebook, kind: HookKind) -> Built:
    notebook.everywhere("everywhere", kind)
    return given(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), leaf())


@program
def global_legacy_hook(notebook):
    return hooked_everywhere(notebook, HookKind.GLOBAL_BACKWARD)


@program
def global_full_hook(notebook):
    return hooked_everywhere(notebook, HookKind.GLOBAL_FULL_BACKWARD)


@program
def global_full_pre_hook(notebook):
    return hooked_everywhere(notebook, HookKind.GLOBAL_FULL_BACKWARD_PRE)


@program
def forward_pre_hook(notebook):
    layer = nn.Linear(3, 3)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    return given(nn.Sequential(nn.Tanh(), layer), leaf())


@program
def forward_pre_hook_that_adds_an_argument(notebook):
    module = FromFunction(lambda self, *args: sum(args) * self.weight)
    module.register_forward_pre_hook(lambda _, args: (*args, args[0] * 2))
    return given(nn.Sequential(nn.Tanh(), module), leaf())


@program
def forward_hook(notebook):
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda _, args, result: result * 2)
    return given(nn.Sequential(nn.Tanh(), layer, nn.Tanh()), leaf())


@program
def weight_made_by_a_forward_pre_hook(notebook):
    layer = nn.utils.weight_norm(nn.Linear(3, 3))
    layer.weight_g.register_hook(notebook.tensor("g"))
    layer.weight_v.register_hook(notebook.tensor("v"))
    return given(nn.Sequential(layer, nn.Tanh()), leaf())


@program
def parametrized_weight(notebook):
    return given(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh()), leaf())


# Checkpoints


@program
def non_reentrant_checkpoint(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    return given(around(model, lambda self, x: checkpoint(self.m, x, use_reentrant=False)), leaf())


@program
def reentrant_checkpoint(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    inside = around(model, lambda self, x: checkpoint(self.m, x, use_reentrant=True) * self.weight)
    return given(nn.Sequential(nn.Tanh(), inside), leaf())

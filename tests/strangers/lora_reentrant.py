"""The embedding is frozen, the layers are checkpointed. Why do the hooks on the adapters never fire?

Because checkpoint(use_reentrant=True) gives gradients only if an argument requires grad, and what the frozen embedding
returns does not. use_reentrant=False works, or output.requires_grad_() in a forward hook of the embedding.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.adapter = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x):
        return self.base(x) + self.adapter(x)


class Model(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.embed.requires_grad_(False)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(8, 20)
        self.reentrant = reentrant

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return self.head(x)


def build(*, reentrant=True, inputs=False):
    model = Model(reentrant=reentrant)
    for layer in model.layers:
        layer.adapter.weight.register_hook(lambda grad: None)
    if inputs:
        model.embed.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    return model, (torch.randint(0, 20, (2, 4)),)


def build_on_modules():
    model, args = build()
    for layer in model.layers:
        layer.adapter.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model, args


def build_mended():
    return build(reentrant=False)


def build_inputs():
    return build(inputs=True)


if __name__ == "__main__":
    model, args = build_inputs()
    model(*args).sum().backward()
    print([layer.adapter.weight.grad is not None for layer in model.layers])

"""An embedding and an output layer that share one weight, with tensor hooks on it.

The weight has two names and one AccumulateGrad node: its hook fires once, with the sum of both gradients.

    fxgrad report samples/tied_weights.py
"""

import torch
from torch import nn
from torch.nn import functional as F


def print_size(grad):
    print(tuple(grad.shape))


def after_accumulation(parameter):
    print("accumulated", tuple(parameter.grad.shape))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary, width):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.embedding(tokens).tanh())


def cross_entropy(logits):
    targets = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build():
    from fxgrad import Target

    model = LanguageModel(vocabulary=50, width=16)
    model.embedding.weight.register_hook(print_size)
    model.output.weight.register_post_accumulate_grad_hook(after_accumulation)
    model.output.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return Target(model, (torch.randint(50, (2, 7)),), loss=cross_entropy)

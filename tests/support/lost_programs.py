"""Programs in which parameters get no gradient, each for another reason."""

import re

import torch
from torch import nn

import fxgrad
from fxgrad.rules import explain


class Program(nn.Module):
    """Three Linears and a forward that is given."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def found(forward, *codes, loss=None, model=None):
    model = model or Program(forward)
    graph = fxgrad.trace(model, torch.ones(2, 3), loss=loss).graph
    return [told for told in explain(graph) if told.code in codes]


def told_names(findings):
    """The parameters that warnings name."""
    return {
        name for told in findings if told.severity != "info" for name in re.findall(r"`([abc]\.\w+)`", told.headline)
    }


def without_grad(forward, loss=None):
    """The parameters whose .grad is None after a real backward."""
    model = Program(forward)
    result = model(torch.ones(2, 3))
    (result if loss is None else loss(result)).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is None}


def detached(model, x):
    return model.a(x) + model.b(x).detach() + model.c(x)


def data(model, x):
    return model.a(x) + model.b(x).data + model.c(x)


def no_grad(model, x):
    with torch.no_grad():
        offset = model.b(x)
    return model.a(x) + offset + model.c(x)


def inference(model, x):
    with torch.inference_mode():
        offset = model.b(x)
    return model.a(x) + offset.clone() + model.c(x)


def integers(model, x):
    return model.a(x) + model.b(x).argmax(-1, keepdim=True) + model.c(x)


def cast(model, x):
    return model.a(x) + model.b(x).to(torch.int64) + model.c(x)


def compared(model, x):
    return torch.where(model.b(x) > 0, model.a(x), model.c(x))


def item(model, x):
    return model.a(x) * model.b(x).sum().item() + model.c(x)


def numpy(model, x):
    return model.a(x) + torch.from_numpy(model.b(x).detach().numpy()) + model.c(x)


def written_in_place(model, x):
    buffer = torch.zeros(2, 3)
    buffer[0] = model.b(x).detach()[0]
    return model.a(x) + buffer + model.c(x)


def written_through_a_view(model, x):
    buffer = torch.zeros(2, 3)
    with torch.no_grad():
        buffer[:1].copy_(model.b(x)[:1])
    return model.a(x) + buffer + model.c(x)


def without_derivative(model, x):
    added = torch.func.vmap(lambda first, second: first + second.detach())
    return added(model.a(x) + model.c(x), model.b(x))


def dropped(model, x):
    model.b(x)
    return model.a(x) + model.c(x)


def unused(model, x):
    return model.a(x) + model.c(x)


def used_in_part(model, x):
    return model.a(x) + nn.functional.linear(x, model.b.weight) + model.c(x)


LOSSES = [
    detached,
    data,
    no_grad,
    inference,
    integers,
    cast,
    compared,
    item,
    numpy,
    written_in_place,
    written_through_a_view,
    without_derivative,
    dropped,
    unused,
    used_in_part,
]

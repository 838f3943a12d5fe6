"""I step an LSTM by hand, with a full hook on it. It warns, and its grad_input is all None. Where is the hidden state's
gradient, and why is everything fine when I call the LSTM once?

The hidden state is inside a tuple, for which a full hook has one entry, None; x requires no grad, so nothing else is left to
wait for. Where backward does not use the hidden state that is returned, nothing is missing. Tensor hooks on the states work.
"""

import torch
from torch import nn


def show(module, grad_input, grad_output):
    pass


class ByStep(nn.Module):
    def __init__(self, on_state=None):
        super().__init__()
        self.lstm, self.head, self.on_state = nn.LSTM(3, 4), nn.Linear(4, 1), on_state

    def forward(self, x):
        state = None
        for step in x.split(1):
            if self.on_state is not None and state is not None:
                for tensor in state:
                    tensor.register_hook(self.on_state)
            output, state = self.lstm(step, state)
        return self.head(output[-1])


class AtOnce(ByStep):
    def forward(self, x):
        output, _ = self.lstm(x)
        return self.head(output[-1])


class Truncated(ByStep):
    def forward(self, x):
        outputs, state = [], None
        for step in x.split(1):
            output, state = self.lstm(step, state)
            outputs.append(output)
            state = tuple(tensor.detach() for tensor in state)
        return self.head(torch.cat(outputs)[-1])


def hook(model, *, requires_grad=True):
    model.lstm.register_full_backward_hook(show)
    return model, (torch.randn(3, 2, 3, requires_grad=requires_grad),)


def build():
    return hook(ByStep(), requires_grad=False)


def build_mended():
    return ByStep(on_state=lambda grad: None), (torch.randn(3, 2, 3),)


def build_mended_at_once():
    return hook(AtOnce())


def build_mended_by_truncating():
    return hook(Truncated())

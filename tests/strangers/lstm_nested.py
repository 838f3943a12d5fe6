"""I put a full hook on nn.LSTM, and my loss uses the last hidden state. Why does the hook not fire?

Because the hidden state is inside the nested tuple of (output, (h, c)): a full hook sees only the results at the top level,
here output, which the loss does not use. A tensor hook on h works, and so does a full hook on a module around it.
"""

import torch
from torch import nn


def show(module, grad_input, grad_output):
    return None


class Encoder(nn.Module):
    def __init__(self, lstm, *, hook=None):
        super().__init__()
        self.lstm, self.hook, self.head = lstm, hook, nn.Linear(5, 2)

    def forward(self, x):
        _, (h, _) = self.lstm(x)
        if self.hook is not None:
            h.register_hook(self.hook)
        return self.head(h[-1])


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)

    def forward(self, x):
        output, (h, c) = self.lstm(x)
        return output, h, c


class FlatEncoder(Encoder):
    def forward(self, x):
        _, h, _ = self.lstm(x)
        return self.head(h[-1])


def build(*, requires_grad=True):
    model = Encoder(nn.LSTM(3, 5, batch_first=True))
    model.lstm.register_full_backward_hook(show)
    return model, (torch.randn(2, 4, 3, requires_grad=requires_grad),)


def build_without_grad():
    return build(requires_grad=False)


def build_mended():
    model = Encoder(nn.LSTM(3, 5, batch_first=True), hook=lambda grad: None)
    return model, (torch.randn(2, 4, 3, requires_grad=True),)


def build_mended_around():
    model = FlatEncoder(Flat())
    model.lstm.register_full_backward_hook(show)
    return model, (torch.randn(2, 4, 3, requires_grad=True),)

"""Programs of containers and layers, each of them hooked or not."""

from __future__ import annotations

import torch
from module_hooks import FromFunction
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hooked_programs.making import Scale, around, given, inner, leaf, nested, program, residual


@program
def linear(notebook):
    return given(nn.Linear(3, 2), torch.randn(4, 3))


@program
def sequential(notebook):
    return given(nested(), leaf())


@program
def sequential_with_legacy_hooks(notebook):
    model = nested()
    for path, module in model.named_modules():
        notebook.legacy(module, f"legacy {path}")
    return given(model, inner())


@program
def sequential_with_full_hooks(notebook):
    model = nested()
    notebook.full(model, "full")
    notebook.full(model[2], "full 2")
    notebook.full_pre(model[0], "pre 0")
    notebook.legacy(model[2][1], "legacy 2.1")
    return given(model, inner())


@program
def convolutions(notebook):
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    return given(nn.Sequential(*layers), torch.randn(2, 2, 4, 4))


@program
def convolutions_in_eval(notebook):
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    return given(nn.Sequential(*layers).eval(), inner(2, 2, 4, 4))


@program
def embedding(notebook):
    return given(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)), torch.tensor([[1, 2], [3, 4]]))


@program
def frozen_first_layer(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    model[0].requires_grad_(False)
    return given(model, torch.randn(2, 3))


@program
def loss_module(notebook):
    model = residual(nn.Linear(3, 3), nn.MSELoss(), forward=lambda self, x, target: self.b(self.a(x), target))
    return given(model, torch.randn(2, 3), torch.randn(2, 3))


@program
def lstm(notebook):
    return given(nn.LSTM(3, 4, 2), torch.randn(5, 2, 3))


@program
def lstm_of_packed_sequences(notebook):
    def forward(self, x):
        return pad_packed_sequence(self.m(pack_padded_sequence(x, [3, 2]))[0])[0]

    return given(around(nn.LSTM(3, 4), forward), leaf(3, 2, 3))


@program
def lstm_cell_three_times(notebook):
    def forward(self, steps):
        hidden = cell = torch.zeros(2, 4)
        for step in steps:
            hidden, cell = self.m(step, (hidden, cell))
        return hidden

    return given(around(nn.LSTMCell(3, 4), forward), torch.randn(3, 2, 3))


@program
def gru_cell_three_times_with_a_legacy_hook(notebook):
    def forward(self, steps):
        hidden = torch.zeros(2, 4)
        for step in steps:
            hidden = self.m(step, hidden)
        return hidden

    model = around(nn.GRUCell(3, 4), forward)
    notebook.legacy(model.m, "legacy")
    return given(model, leaf(3, 2, 3))


@program
def attention(notebook):
    return given(nn.MultiheadAttention(4, 2), inner(3, 2, 4), inner(3, 2, 4), inner(3, 2, 4))


@program
def self_attention(notebook):
    x = inner(3, 2, 4)
    return given(nn.MultiheadAttention(4, 2), x, x, x)


@program
def transformer_layer(notebook):
    return given(nn.TransformerEncoderLayer(4, 2, 8), inner(3, 2, 4))


@program
def transformer_decoder(notebook):
    return given(nn.TransformerDecoderLayer(4, 2, 8), inner(3, 2, 4), inner(5, 2, 4))


@program
def custom_function(notebook):
    return given(nn.Sequential(FromFunction(lambda self, x: Scale.apply(x * self.weight, 3)[0]), nn.ReLU()), inner(3))


@program
def shared_module(notebook):
    layer = nn.Linear(3, 3)
    return given(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), layer), leaf())


@program
def module_never_called(notebook):
    return given(residual(nn.Linear(3, 3), nn.Linear(3, 3), forward=lambda self, x: self.a(x)), leaf())


@program
def module_under_no_grad(notebook):
    def forward(self, x):
        with torch.no_grad():
            target = self.a(x)
        return self.b(x) * target

    return given(residual(nn.Linear(3, 3), nn.Linear(3, 3), forward=forward), leaf())


@program
def module_that_raises(notebook):
    def broken(self, x):
        self.seen = x * self.weight
        raise ValueError

    def forward(self, x):
        try:
            self.m(x)
        except ValueError:
            return x * 2

    return given(around(FromFunction(broken), forward), inner(3))

"""Models of many shapes, written by hand, that pictures are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.models import encoder, resnet


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """With the names of torchvision's: layer1.0.conv1."""

    def __init__(self, block: Callable[..., nn.Module], blocks: tuple[int, ...], grow: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 16
        for stage, count in enumerate(blocks):
            layers = []
            for number in range(count):
                layers.append(block(channels, 16 << stage, 2 if stage and not number else 1))
                channels = grow * (16 << stage)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 16, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3, 1, 1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = self.conv1(torch.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(torch.relu(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers: int, channels: int) -> None:
        super().__init__({f"denselayer{number + 1}": DenseLayer(channels + 4 * number) for number in range(layers)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)
        )


def densenet(blocks: tuple[int, ...]) -> nn.Module:
    features, channels = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False)), 16
    for number, layers in enumerate(blocks):
        features.add_module(f"denseblock{number + 1}", DenseBlock(layers, channels))
        channels += 4 * layers
        if number < len(blocks) - 1:
            features.add_module(f"transition{number + 1}", Transition(channels))
            channels //= 2
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Vit(nn.Module):
    def __init__(self, layers: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class Window(nn.Module):
    """A block of a Swin-like transformer: attention in windows, every second one shifted."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(16, 16))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, side, _, width = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.reshape(batch, side // 4, 4, side // 4, 4, width).transpose(2, 3).reshape(-1, 16, width)
        q, k, v = self.qkv(y).chunk(3, -1)
        y = torch.softmax(q @ k.transpose(1, 2) / width**0.5 + self.bias, -1) @ v
        y = self.proj(y).reshape(batch, side // 4, side // 4, 4, 4, width).transpose(2, 3).reshape(x.shape)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


def swin(blocks: tuple[int, ...] = (2, 2, 18, 2)) -> nn.Module:
    layers: list[nn.Module] = []
    for stage, count in enumerate(blocks):
        width = 8 << stage
        layers.append(nn.Sequential(*(Window(width, 2 * (number % 2)) for number in range(count))))
        if stage < len(blocks) - 1:
            layers.append(Merging(width))
    return nn.Sequential(nn.LayerNorm(8), *layers, nn.LayerNorm(width), nn.Flatten(1), nn.LazyLinear(10))


class Cells(nn.Module):
    """An LSTMCell called once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.cell, self.head = steps, nn.LSTMCell(8, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = (torch.zeros(2, 8), torch.zeros(2, 8))
        for _ in range(self.steps):
            state = self.cell(x, state)
        return self.head(state[0])


class ConvCell(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 4, 16, 3, padding=1)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, cell = state
        i, f, o, g = self.conv(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


class ConvLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.ModuleList([ConvCell(1), ConvCell(4)]), nn.Conv2d(4, 1, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        states = [(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)) for _ in self.cells]
        found = []
        for step in range(frames.shape[1]):
            x = frames[:, step]
            for number, cell in enumerate(self.cells):
                states[number] = cell(x, states[number])
                x = states[number][0]
            found.append(self.head(x))
        return torch.stack(found, 1)


class Elman(nn.Module):
    """Recurrence without a module."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.w, self.u = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(2, 8)
        for _ in range(self.steps):
            state = torch.tanh(x @ self.w + state @ self.u)
        return state


class Functional(nn.Module):
    """Layers that are calls of functions, with parameters in lists."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.ones(8, 8) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = functional.relu(functional.linear(x, weight))
        return x


class Dag(nn.Module):
    """Functional code without structure: each value is made of two earlier ones."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.nodes, self.start = nodes, nn.Parameter(torch.ones(3))

    def forward(self) -> torch.Tensor:
        values, state = [self.start * 1, self.start * 2], 1
        functions = (torch.add, torch.mul, torch.maximum)
        for number in range(self.nodes):
            state = (1103515245 * state + 12345) % 2**31
            values.append(functions[number % 3](values[-1], values[-1 - state % min(40, len(values))]))
        return values[-1]


def mlp(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(layers)))


def image(side: int = 64) -> tuple[Any, ...]:
    return (torch.randn(2, 3, side, side),)


MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "resnet18": lambda: (ResNet(BasicBlock, (2, 2, 2, 2), 1), image()),
    "resnet50": lambda: (resnet(), image()),
    "resnet152": lambda: (resnet((3, 8, 36, 3)), image()),
    "densenet121": lambda: (densenet((6, 12, 24, 16)), image()),
    "densenet201": lambda: (densenet((6, 12, 48, 32)), image()),
    "vit": lambda: (Vit(), image(32)),
    "swin": lambda: (swin(), (torch.randn(2, 32, 32, 8),)),
    "encoder12": lambda: (encoder(12, 64), (torch.randn(2, 5, 64),)),
    "encoder40": lambda: (encoder(40, 64), (torch.randn(2, 5, 64),)),
    "lstm100": lambda: (Cells(100), (torch.randn(2, 8),)),
    "lstm5000": lambda: (Cells(5_000), (torch.randn(2, 8),)),
    "convlstm20": lambda: (ConvLSTM(), (torch.randn(2, 20, 1, 8, 8),)),
    "elman200": lambda: (Elman(200), (torch.randn(2, 8),)),
    "mlp1000": lambda: (mlp(1_000), (torch.randn(2, 8),)),
    "functional1000": lambda: (Functional(1_000), (torch.randn(2, 8),)),
    "dag5000": lambda: (Dag(5_000), ()),
}

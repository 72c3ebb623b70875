"""The project's own networks in PyTorch: for training, and as the reference that
the engine is held to. Names of parameters are those that a model directory
uses; src/model/fibro.rs describes the architecture."""

import torch
from torch import nn


class Shortcut(nn.Module):
    """Every second pixel, as many channels as the block, shortened in time."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels, 1, stride=(1, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))[:, :, 2:-2]


class Block(nn.Module):
    """Two convolutions that are valid in time, so two frames go at each end."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        padding = (0, 1, 1)
        self.conv1 = nn.Conv3d(channels_in, channels, 3, (1, 2, 2), padding, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, padding, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)
        self.shortcut = Shortcut(channels_in, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Stem(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Fibro3d(nn.Module):
    """Clips [N, C, T, H, W] to logits [N, K]."""

    def __init__(self, channels: int, widths: list[int], classes: int):
        super().__init__()
        self.stem = Stem(channels, widths[0])
        inputs = [widths[0], *widths[:-1]]
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip(inputs, widths)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(clips)).mean(dim=(2, 3, 4)))


def spec_toml(architecture, widths, classes, shape, mean, std, note) -> str:
    """The text of a model.toml; shape is (C, T, H, W)."""
    channels, frames, height, width = shape
    quoted = ", ".join(f'"{name}"' for name in classes)
    return f"""architecture = "{architecture}"
widths = {list(widths)}
classes = [{quoted}]
synthetic = true
note = "{note}"

[input]
channels = {channels}
frames = {frames}
height = {height}
width = {width}
mean = {mean}
std = {std}
"""

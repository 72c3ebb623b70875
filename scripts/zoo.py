"""The project's own networks in PyTorch: for training, and as the reference that
the engine is held to. Names of parameters are those that a model directory
uses; src/model/fibro.rs describes the architecture."""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock as ResNetBlock
from torchvision.models.video import resnet as video


class Shortcut(nn.Module):
    """Every second pixel, as many channels as the block, shortened in time."""

    def __init__(self, channels_in: int, channels: int, crop: int):
        super().__init__()
        self.crop = crop
        self.conv = nn.Conv3d(channels_in, channels, 1, stride=(1, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return y[:, :, self.crop : y.shape[2] - self.crop]


class Block(nn.Module):
    """Two convolutions over `taps` frames each, valid in time: one of three takes a
    frame at each end."""

    def __init__(self, channels_in: int, channels: int, taps: tuple[int, int]):
        super().__init__()
        first, second, padding = (taps[0], 3, 3), (taps[1], 3, 3), (0, 1, 1)
        self.conv1 = nn.Conv3d(channels_in, channels, first, (1, 2, 2), padding, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, second, 1, padding, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)
        self.shortcut = Shortcut(channels_in, channels, sum(taps) // 2 - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Stem(nn.Module):
    """Takes `frames` frames together, and goes on by as many. It is trained on their
    mean, which keeps its kernel the same for each of them."""

    def __init__(self, channels_in: int, channels: int, frames: int = 1):
        super().__init__()
        kernel, stride, padding = (frames, 5, 5), (frames, 2, 2), (0, 2, 2)
        self.conv = nn.Conv3d(channels_in, channels, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.frames = frames
        weight = self.conv.weight.data
        weight.copy_(weight.mean(2, keepdim=True).expand_as(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.frames > 1:
            steps = x.shape[2] // self.frames
            means = x[:, :, : steps * self.frames].unflatten(2, (steps, self.frames)).mean(3)
            kernel = self.conv.weight.sum(2, keepdim=True)
            y = functional.conv3d(means, kernel, None, (1, 2, 2), (0, 2, 2))
        else:
            y = self.conv(x)
        return torch.relu(self.norm(y))


class Fibro3d(nn.Module):
    """Clips [N, C, T, H, W] to logits [N, K]. Convolutions are over three frames while
    there are three left."""

    def __init__(
        self, channels: int, widths: list[int], classes: int, stem_frames: int, frames: int
    ):
        super().__init__()
        self.stem = Stem(channels, widths[0], stem_frames)
        inputs = [widths[0], *widths[:-1]]
        left, blocks = frames // stem_frames, []
        for channels_in, channels in zip(inputs, widths):
            taps = []
            for _ in range(2):
                taps.append(3 if left >= 3 else 1)
                left -= taps[-1] - 1
            blocks.append(Block(channels_in, channels, tuple(taps)))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(clips)).mean(dim=(2, 3, 4)))


class Shortcut2d(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Block2d(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = Shortcut2d(channels_in, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Stem2d(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


def each_frame(clips: torch.Tensor) -> torch.Tensor:
    """[N, C, T, H, W] to [N * T, C, H, W]."""
    return clips.transpose(1, 2).flatten(0, 1)


def mean_over_frames(logits: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Log of the mean probability over frames: [N * T, K] to [N, K]."""
    return logits.softmax(-1).unflatten(0, (len(clips), -1)).mean(1).log()


class Fibro2d(nn.Module):
    """Clips [N, C, T, H, W] to log-probabilities [N, K], frame by frame."""

    def __init__(self, channels: int, widths: list[int], classes: int):
        super().__init__()
        self.stem = Stem2d(channels, widths[0])
        inputs = [widths[0], *widths[:-1]]
        self.blocks = nn.Sequential(*(Block2d(i, o) for i, o in zip(inputs, widths)))
        self.head = nn.Linear(widths[-1], classes)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(each_frame(clips))).mean(dim=(2, 3))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return mean_over_frames(self.head(self.features(clips)), clips)


class Fibro2dLstm(Fibro2d):
    """Clips [N, C, T, H, W] to logits [N, K]: an LSTM over the frames."""

    def __init__(self, channels, widths, classes, hidden: int, layers: int):
        super().__init__(channels, widths, classes)
        self.lstm = nn.LSTM(widths[-1], hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        frames = self.features(clips).unflatten(0, (len(clips), -1))
        return self.head(self.lstm(frames)[0][:, -1])


class ResNet2d(nn.Module):
    """torchvision's ResNet of BasicBlocks, parametric in widths and depths."""

    def __init__(self, channels: int, widths: list[int], depths: list[int], classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = widths[0]
        self.layers = len(widths)
        for number, (width, depth) in enumerate(zip(widths, depths)):
            stride = 2 if number else 1
            down = None
            if stride != 1 or inputs != width:
                conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
                down = nn.Sequential(conv, nn.BatchNorm2d(width))
            blocks = [ResNetBlock(inputs, width, stride, down)]
            blocks += [ResNetBlock(width, width) for _ in range(depth - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(inputs, classes) if classes else nn.Identity()

    def of_frames(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(self.layers):
            x = getattr(self, f"layer{number + 1}")(x)
        return self.fc(x.mean(dim=(2, 3)))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return mean_over_frames(self.of_frames(each_frame(clips)), clips)


class ResNet2dLstm(nn.Module):
    """Features of ResNet2d for each frame, then an LSTM."""

    def __init__(self, channels, widths, depths, classes, hidden: int, layers: int):
        super().__init__()
        self.cnn = ResNet2d(channels, widths, depths, 0)
        self.lstm = nn.LSTM(widths[-1], hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        frames = self.cnn.of_frames(each_frame(clips)).unflatten(0, (len(clips), -1))
        return self.fc(self.lstm(frames)[0][:, -1])


class VideoResNet(nn.Module):
    """torchvision's VideoResNet of its own BasicBlocks, parametric in widths
    and depths; kind is r3d_18, mc3_18 or r2plus1d_18."""

    def __init__(self, kind: str, channels, widths, depths, classes: int):
        super().__init__()
        first = widths[0]
        if kind == "r2plus1d_18":
            self.stem = nn.Sequential(
                nn.Conv3d(channels, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                nn.BatchNorm3d(45),
                nn.ReLU(),
                nn.Conv3d(45, first, (3, 1, 1), 1, (1, 0, 0), bias=False),
                nn.BatchNorm3d(first),
                nn.ReLU(),
            )
        else:
            conv = nn.Conv3d(channels, first, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
            self.stem = nn.Sequential(conv, nn.BatchNorm3d(first), nn.ReLU())
        inputs = first
        self.layers = len(widths)
        for number, (width, depth) in enumerate(zip(widths, depths)):
            maker = video.Conv2Plus1D if kind == "r2plus1d_18" else video.Conv3DSimple
            if kind == "mc3_18" and number:
                maker = video.Conv3DNoTemporal
            stride = 2 if number else 1
            down = None
            if stride != 1 or inputs != width:
                steps = maker.get_downsample_stride(stride)
                conv = nn.Conv3d(inputs, width, 1, steps, bias=False)
                down = nn.Sequential(conv, nn.BatchNorm3d(width))
            blocks = [video.BasicBlock(inputs, width, maker, stride, down)]
            blocks += [video.BasicBlock(width, width, maker) for _ in range(depth - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(inputs, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        x = self.stem(clips)
        for number in range(self.layers):
            x = getattr(self, f"layer{number + 1}")(x)
        return self.fc(x.mean(dim=(2, 3, 4)))


def build(
    architecture, channels, widths, classes, depths=None, lstm=None, stem_frames=1, frames=1000
) -> nn.Module:
    """The network that a model.toml describes; lstm is (hidden, layers). Of `frames`,
    those of a clip, only that there are few matters, and only to fibro3d."""
    depths = depths or [2] * len(widths)
    if architecture == "fibro3d":
        return Fibro3d(channels, widths, classes, stem_frames, frames)
    if architecture == "fibro2d":
        return Fibro2d(channels, widths, classes)
    if architecture == "fibro2d_lstm":
        return Fibro2dLstm(channels, widths, classes, *lstm)
    if architecture == "resnet18":
        return ResNet2d(channels, widths, depths, classes)
    if architecture == "resnet18_lstm":
        return ResNet2dLstm(channels, widths, depths, classes, *lstm)
    return VideoResNet(architecture, channels, widths, depths, classes)


def randomise(network: nn.Module) -> None:
    """Random weights of a useful size, and statistics that are not 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_(0.0, 0.3)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.0, 0.3)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.weight.data.normal_(0.0, (2.0 / module.weight[0].numel()) ** 0.5)


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """What a weights.safetensors holds."""
    return {
        name: tensor.float().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def spec_toml(
    architecture, widths, classes, shape, mean, std, note, depths=None, lstm=None, stem_frames=1
) -> str:
    """The text of a model.toml; shape is (C, T, H, W)."""
    channels, frames, height, width = shape
    quoted = ", ".join(f'"{name}"' for name in classes)
    extra = f"depths = {depths}\n" if depths else ""
    extra += f"stem_frames = {stem_frames}\n" if stem_frames > 1 else ""
    extra += f"lstm = {{ hidden = {lstm[0]}, layers = {lstm[1]} }}\n" if lstm else ""
    return f"""architecture = "{architecture}"
widths = {list(widths)}
{extra}classes = [{quoted}]
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

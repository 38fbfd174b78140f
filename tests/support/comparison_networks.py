"""The CIFAR-100 comparison's networks, written once more from their structure.

Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020. Modules and attributes
have the names of that comparison's code (RepDistiller), so that its own modules can stand in their
place (`comparison.py`). A forward pass with `is_feat` returns (list of outputs, logits); `preact`
gives the stages of that list before their activation.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

Shown = tuple[list[Tensor], Tensor]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )


class Network(nn.Module):
    """Base: a subclass computes the first map, then (stage, stage before activation) pairs."""

    features: tuple[str, ...]
    """Attributes that the comparison trains in an initial phase."""

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """First map, stages, embedding, logits."""
        raise NotImplementedError

    def forward(self, x: Tensor, is_feat: bool = False, preact: bool = False) -> Tensor | Shown:
        first, stages, embedding, logits = self.outputs(x)
        if not is_feat:
            return logits
        return [first, *(stage[preact] for stage in stages), embedding], logits

    def get_feat_modules(self) -> nn.ModuleList:
        return nn.ModuleList(getattr(self, name) for name in self.features)


# ---------------------------------------------------------------- residual networks


class Residual(nn.Module):
    """Basic block, or bottleneck with `middle`; returns the sum before its ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, middle: int, shortcut: str) -> None:
        super().__init__()
        steps = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if middle:
            steps = [(inputs, middle, 1, 1), (middle, middle, 3, stride), (middle, outputs, 1, 1)]
        self.depth = len(steps)
        for i, step in enumerate(steps, 1):
            self.add_module(f"conv{i}", conv(*step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(step[1]))
        self.name = shortcut
        if stride != 1 or inputs != outputs:
            projected = conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            self.add_module(shortcut, nn.Sequential(*projected))

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for i in range(1, self.depth + 1):
            residual = residual if i == 1 else functional.relu(residual)
            residual = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(residual))
        return residual + (getattr(self, self.name)(x) if hasattr(self, self.name) else x)


class ResNet(Network):
    """Of CIFAR (three stages, `fc`) or of ImageNet with a small stem (four, `linear`)."""

    def __init__(self, widths: list[int], depths: list[int], expansion: int, classes: int) -> None:
        super().__init__()
        imagenet = len(depths) == 4
        stem, *stages = widths
        self.conv1, self.bn1 = conv(3, stem, 3), nn.BatchNorm2d(stem)
        inputs = stem
        for i, (width, depth) in enumerate(zip(stages, depths, strict=True), 1):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                middle = width if expansion > 1 else 0
                name = "shortcut" if imagenet else "downsample"
                blocks.append(Residual(inputs, width * expansion, stride, middle, name))
                inputs = width * expansion
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.count, self.last = len(depths), "linear" if imagenet else "fc"
        self.features = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(self.count)))
        self.add_module(self.last, nn.Linear(inputs, classes))

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        x = first = functional.relu(self.bn1(self.conv1(x)))
        stages = []
        for i in range(1, self.count + 1):
            for block in getattr(self, f"layer{i}"):
                before = block(x)
                x = functional.relu(before)
            stages.append((x, before))
        embedding = x.mean((2, 3))
        return first, stages, embedding, getattr(self, self.last)(embedding)


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return residual + (x if self.convShortcut is None else self.convShortcut(activated))


class WideStage(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class WideResNet(Network):
    """Stages are plain sums; before activation, the next BatchNorm's output."""

    features = ("conv1", "block1", "block2", "block3")

    def __init__(self, depth: int, k: int, classes: int) -> None:
        super().__init__()
        widths, blocks = [16, 16 * k, 32 * k, 64 * k], (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        for i in (1, 2, 3):
            of = [WideBlock(widths[i - 1], widths[i], 2 if i > 1 else 1)]
            of += [WideBlock(widths[i], widths[i], 1) for _ in range(blocks - 1)]
            self.add_module(f"block{i}", WideStage(of))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        first = self.conv1(x)
        sums = [self.block1(first)]
        sums += [self.block2(sums[0])]
        sums += [self.block3(sums[1])]
        norms = self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1
        stages = [(each, norm(each)) for each, norm in zip(sums, norms, strict=True)]
        embedding = functional.relu(self.bn1(sums[2])).mean((2, 3))
        return first, stages, embedding, self.fc(embedding)


# ---------------------------------------------------------------- VGG


class VGG(Network):
    """The first stage is the first map."""

    features = tuple(f"block{i}" for i in range(5))

    def __init__(self, layout: list[list[int]], classes: int) -> None:
        super().__init__()
        inputs = 3
        for i, widths in enumerate(layout):
            layers: list[nn.Module] = []
            for width in widths:
                convolution = nn.Conv2d(inputs, width, 3, padding=1)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            self.add_module(f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(inputs, classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        stages = []
        for i in range(5):
            before = getattr(self, f"block{i}")(x)
            after = functional.relu(before)
            stages.append((after, before))
            x = functional.max_pool2d(after, 2) if i < 3 else after
        embedding = x.mean((2, 3))
        return stages[0][0], stages[1:], embedding, self.classifier(embedding)


# ---------------------------------------------------------------- small networks


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.same = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv(inputs, middle, 1), nn.BatchNorm2d(middle), nn.ReLU(),
            conv(middle, middle, 3, stride, middle), nn.BatchNorm2d(middle), nn.ReLU(),
            conv(middle, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(Network):
    """At half width; stages have no activation, and both forms are the same."""

    features = ("conv1", "blocks")
    runs = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        inputs, runs = 16, []
        for expansion, width, depth, stride in self.runs:
            run = []
            for j in range(depth):
                run.append(Inverted(inputs, width // 2, 1 if j else stride, expansion))
                inputs = width // 2
            runs.append(nn.Sequential(*run))
        self.blocks = nn.ModuleList(runs)
        self.conv2 = nn.Sequential(conv(inputs, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, classes))

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        x = first = self.conv1(x)
        stages = []
        for i, run in enumerate(self.blocks):
            x = run(x)
            if i in (1, 2, 4, 6):
                stages.append((x, x))
        embedding = self.conv2(x).mean((2, 3))
        return first, stages, embedding, self.classifier(embedding)


def shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    split = x.view(batch, groups, channels // groups, height, width)
    return split.transpose(1, 2).reshape(batch, channels, height, width)


class Shuffle1(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.groups, self.stride = (1 if inputs == 24 else 3), stride
        self.conv1 = conv(inputs, middle, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = conv(middle, middle, 3, stride, middle), nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = conv(middle, outputs, 1, groups=3), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffled(functional.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        if self.stride == 1:
            return y + x
        return torch.cat((y, functional.avg_pool2d(x, 3, 2, 1)), 1)


class ShuffleV1(Network):
    features = ("conv1", "bn1", "layer1", "layer2", "layer3")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 24, 1), nn.BatchNorm2d(24)
        inputs = 24
        for i, (width, depth) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            blocks = [Shuffle1(inputs, width - inputs, 2)]
            blocks += [Shuffle1(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(inputs, classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        x = first = functional.relu(self.bn1(self.conv1(x)))
        stages = []
        for i in (1, 2, 3):
            for block in getattr(self, f"layer{i}"):
                before = block(x)
                x = functional.relu(before)
            stages.append((x, before))
        embedding = x.mean((2, 3))
        return first, stages, embedding, self.linear(embedding)


class Down2(nn.Module):
    def __init__(self, inputs: int, half: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, inputs, 3, 2, inputs), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = conv(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv(half, half, 3, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left = functional.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(functional.relu(self.bn3(self.conv3(x)))))
        right = functional.relu(self.bn5(self.conv5(right)))
        both = shuffled(torch.cat((left, right), 1), 2)
        return both, both


class Split2(nn.Module):
    """Returns its output, and the halves side by side, not shuffled, before the last ReLU."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(half, half, 1), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv(half, half, 3, 1, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, 1)
        changed = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(changed)))))
        changed = self.bn3(self.conv3(changed))
        after = torch.cat((kept, functional.relu(changed)), 1)
        return shuffled(after, 2), torch.cat((kept, changed), 1)


class ShuffleV2(Network):
    features = ("conv1", "bn1", "layer1", "layer2", "layer3")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 24, 1), nn.BatchNorm2d(24)
        inputs = 24
        for i, (width, depth) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            blocks: list[nn.Module] = [Down2(inputs, width // 2)]
            blocks += [Split2(width // 2) for _ in range(depth)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inputs = width
        self.conv2, self.bn2 = conv(inputs, 1024, 1), nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        x = first = functional.relu(self.bn1(self.conv1(x)))
        stages = []
        for i in (1, 2, 3):
            for block in getattr(self, f"layer{i}"):
                x, before = block(x)
            stages.append((x, before))
        embedding = functional.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return first, stages, embedding, self.linear(embedding)


# ---------------------------------------------------------------- by name

_VGG = {"vgg8": (1, 1, 1, 1, 1), "vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # fmt: skip


def build(name: str, num_classes: int) -> Network:
    """Build a network by the comparison's name."""
    if name in _VGG:
        widths = (64, 128, 256, 512, 512)
        return VGG([[w] * d for w, d in zip(widths, _VGG[name], strict=True)], num_classes)
    if name.startswith("wrn_"):
        return WideResNet(*(int(part) for part in name.split("_")[1:]), num_classes)
    if name == "ResNet50":
        return ResNet([64, 64, 128, 256, 512], [3, 4, 6, 3], 4, num_classes)
    if name.startswith("resnet"):
        depth, _, wide = name.removeprefix("resnet").partition("x")
        widths_of = [32, 64, 128, 256] if wide else [16, 16, 32, 64]
        return ResNet(widths_of, [(int(depth) - 2) // 6] * 3, 1, num_classes)
    kinds = {"mobile_half": MobileNetV2, "ShuffleV1": ShuffleV1, "ShuffleV2": ShuffleV2}
    return kinds[name](num_classes)

"""ResNets on torchvision's own modules: for CIFAR's 32 x 32, and narrow for smaller images."""

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

PORTS = {"classifier": "fc"}
LAYERS = {"last": "layer4", "earlier": "layer3"}
SMALL_LAYERS = {"last": "layer3", "earlier": "layer2"}


def resnet18_cifar(classes: int) -> nn.Module:
    """ResNet18 for 32 x 32 images, see `_for_cifar`."""
    return _for_cifar(torchvision.models.resnet18(num_classes=classes))


def resnet50_cifar(classes: int) -> nn.Module:
    """ResNet50 for 32 x 32 images, see `_for_cifar`."""
    return _for_cifar(torchvision.models.resnet50(num_classes=classes))


def _for_cifar(model: ResNet) -> ResNet:
    """A 3 x 3 stem of stride 1 without pooling, and all convolutions as PyTorch initialises them.

    So has it github.com/weiaicunzai/pytorch-cifar100, which the paper's authors train.
    """
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return model


class NarrowResNet(nn.Module):
    """ResNet18's plan from torchvision's blocks at a fraction of its width; the same layer names.

    Args:
        classes: number of outputs.
        width: channels of the first stage (torchvision: 64); each later stage doubles them.
        stride: of the stem.
    """

    def __init__(self, classes: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width)."""
        features = self.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return self.fc(self.avgpool(features).flatten(1))


class SmallResNet(nn.Module):
    """The ResNets of He et al. 2016 for 32 x 32 images: stages of 16, 32 and 64 channels, from torchvision's blocks.

    As those who compare distillation train them (github.com/megvii-research/mdistiller): a 1 x 1 convolution where the
    width changes, convolutions initialised by fan-out.

    Args:
        classes: number of outputs.
        blocks: of a stage; 6 * blocks + 2 layers in all.
    """

    def __init__(self, classes: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, stride=1, blocks=blocks)
        self.layer2 = _stage(16, 32, stride=2, blocks=blocks)
        self.layer3 = _stage(32, 64, stride=2, blocks=blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width)."""
        features = self.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3):
            features = layer(features)
        return self.fc(self.avgpool(features).flatten(1))


def _stage(inputs: int, outputs: int, stride: int, blocks: int = 2) -> nn.Sequential:
    """Basic blocks, the first of `stride`."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    later = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), *later)


def resnet18_narrow(classes: int) -> nn.Module:
    """ResNet18 at a quarter of its width, downsampling twice: for images of 8 x 8 to 16 x 16."""
    return NarrowResNet(classes, width=16)


def resnet18_narrow16(classes: int) -> nn.Module:
    """ResNet18 at a quarter of its width, downsampling thrice: for images of 16 x 16."""
    return NarrowResNet(classes, width=16, stride=2)


def resnet20_cifar(classes: int) -> nn.Module:
    """ResNet20 for 32 x 32 images, 0.3 M weights."""
    return SmallResNet(classes, blocks=3)


def resnet56_cifar(classes: int) -> nn.Module:
    """ResNet56 for 32 x 32 images, 0.9 M weights."""
    return SmallResNet(classes, blocks=9)

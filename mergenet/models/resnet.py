"""ResNets on torchvision's own modules: for large images, for CIFAR's 32 x 32, and narrow for smaller ones."""

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

PORTS = {"classifier": "fc"}


def resnet18(classes: int) -> nn.Module:
    """torchvision's ResNet18 (He et al. 2016), for images around 224 x 224."""
    return torchvision.models.resnet18(num_classes=classes)


def resnet50(classes: int) -> nn.Module:
    """torchvision's ResNet50 (He et al. 2016), for images around 224 x 224."""
    return torchvision.models.resnet50(num_classes=classes)


def resnet18_cifar(classes: int) -> nn.Module:
    """ResNet18 with a stem for 32 x 32 images."""
    return _with_small_stem(torchvision.models.resnet18(num_classes=classes))


def resnet50_cifar(classes: int) -> nn.Module:
    """ResNet50 with a stem for 32 x 32 images."""
    return _with_small_stem(torchvision.models.resnet50(num_classes=classes))


def _with_small_stem(model: ResNet) -> ResNet:
    """A 3 x 3 convolution of stride 1 and no pooling in place of the 7 x 7 stem of stride 4."""
    model.conv1 = _small_convolution(64)
    model.maxpool = nn.Identity()
    return model


def _small_convolution(channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class NarrowResNet(nn.Module):
    """ResNet18's plan from torchvision's blocks at a fraction of its width; the same layer names.

    Args:
        classes: number of outputs.
        width: channels of the first stage (torchvision: 64); each later stage doubles them.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = _small_convolution(width)
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


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two basic blocks, the first of `stride`."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


def resnet18_narrow(classes: int) -> nn.Module:
    """ResNet18 at a quarter of its width, downsampling twice: for images of 8 x 8 to 16 x 16."""
    return NarrowResNet(classes, width=16)

"""MobileNetV2 on torchvision's own modules: for CIFAR's 32 x 32, and narrow for smaller images.

All have 17 inverted residual blocks, so the ports have the same names; `irb16` is the projection, the
last 1 x 1 convolution, of the sixteenth, which the paper writes to.
"""

import torch
from torch import nn
from torchvision.models import MobileNetV2
from torchvision.ops import Conv2dNormActivation

CIFAR_PORTS = {"classifier": "classifier.1", **{f"irb{block}": f"features.{block}.conv.2" for block in range(1, 18)}}
PORTS = {**CIFAR_PORTS, "irb1": "features.1.conv.1"}  # torchvision's first block has no expansion
LAYERS = {
    "last": "features.18",
    "earlier": "features.13",  # after it torchvision's map shrinks for the last time
    "pooled": "->classifier",  # before dropout, which stands within
}

# expansion, channels, blocks, stride of the first block: Sandler et al. 2018, Table 2, with other strides.
CIFAR_PLAN = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 1],
    [6, 320, 1, 1],
]
NARROW_PLAN = [[*row[:3], 1] if row[1] == 24 else row for row in CIFAR_PLAN]  # 24 channels: stride 1


def mobilenet_v2_cifar(classes: int) -> nn.Module:
    """MobileNetV2 for 32 x 32 images as in github.com/weiaicunzai/pytorch-cifar100, which the paper's authors train.

    Its stem is a 1 x 1 convolution on an image padded by one, its first block expands too (32 to 32 channels),
    every convolution has a bias, nothing is dropped out, and all begins as PyTorch initialises it.
    """
    model = MobileNetV2(classes, inverted_residual_setting=CIFAR_PLAN, dropout=0.0)
    model.features[0][0] = nn.Conv2d(3, 32, kernel_size=1, padding=1)
    expansion = Conv2dNormActivation(32, 32, kernel_size=1, activation_layer=nn.ReLU6)
    model.features[1].conv.insert(0, expansion)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias = nn.Parameter(torch.empty(layer.out_channels))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return model


def mobilenet_v2_narrow(classes: int) -> nn.Module:
    """MobileNetV2 at 0.35 of its width, downsampling twice: for images of 8 x 8 to 16 x 16."""
    model = _narrow(classes)
    model.features[0][0].stride = (1, 1)
    return model


def mobilenet_v2_narrow16(classes: int) -> nn.Module:
    """MobileNetV2 at 0.35 of its width, downsampling thrice: for images of 16 x 16."""
    return _narrow(classes)


def _narrow(classes: int) -> MobileNetV2:
    return MobileNetV2(classes, width_mult=0.35, inverted_residual_setting=NARROW_PLAN)

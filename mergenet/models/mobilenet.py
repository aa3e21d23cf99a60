"""MobileNetV2 on torchvision's own modules: for large images, for CIFAR's 32 x 32, and narrow for smaller ones.

All have 17 inverted residual blocks, so the ports have the same names; `irb16` is the projection, the
last 1 x 1 convolution, of the sixteenth, which the paper writes to.
"""

import torchvision
from torch import nn
from torchvision.models import MobileNetV2

PORTS = {
    "classifier": "classifier.1",
    "irb1": "features.1.conv.1",  # the first block has no expansion
    **{f"irb{block}": f"features.{block}.conv.2" for block in range(2, 18)},
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


def mobilenet_v2(classes: int) -> nn.Module:
    """torchvision's MobileNetV2 (Sandler et al. 2018), for images around 224 x 224."""
    return torchvision.models.mobilenet_v2(num_classes=classes)


def mobilenet_v2_cifar(classes: int) -> nn.Module:
    """MobileNetV2 for 32 x 32 images: downsamples three times, as the CIFAR variant of the authors does."""
    return _with_small_stem(MobileNetV2(num_classes=classes, inverted_residual_setting=CIFAR_PLAN))


def mobilenet_v2_narrow(classes: int) -> nn.Module:
    """MobileNetV2 at 0.35 of its width, downsampling twice: for images of 8 x 8 to 16 x 16."""
    return _with_small_stem(MobileNetV2(classes, width_mult=0.35, inverted_residual_setting=NARROW_PLAN))


def _with_small_stem(model: MobileNetV2) -> MobileNetV2:
    """The stem's stride from 2 to 1."""
    stem = model.features[0][0]
    stem.stride = (1, 1)
    return model

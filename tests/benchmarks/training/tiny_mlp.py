"""A network that takes next to no time, so that only the overhead of the training shows."""

from torch import Tensor, nn


class TinyMLP(nn.Module):
    """One hidden layer of 64 units, for images of 28x28 pixels.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 64),
            nn.ReLU(),
            nn.Linear(64, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(N, C, 28, 28)`` to logits ``(N, K)``."""
        logits: Tensor = self.layers(images)
        return logits

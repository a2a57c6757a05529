# SPDX-License-Identifier: Apache-2.0
"""Second moments of what a layer's weights multiply: the Hessian of its squared output error.

With inputs x (terms) of a row w, the mean squared error of its sums is ``(w - q)' H (w - q)``,
``H = E[x x']``, or the covariance of x where a bias takes up the mean. Rows of a group share H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = 196  #: most positions of an image, or vectors of a text, that are looked at

Weighted = nn.Conv2d | nn.Linear


def positions(layer: Weighted, x: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of some outputs of an image, or of vectors of a text, at most POSITIONS, drawn.

    ``x`` is an input of ``layer``, (N, C, H, W) or (N, ..., C).
    """
    if isinstance(layer, nn.Linear):
        count = x[0].numel() // x.shape[-1]
    else:
        height, width = _outputs(layer, _padded(layer, x[:1]))
        count = height * width
    if count <= POSITIONS:
        return torch.arange(count, device=x.device)
    return torch.randperm(count, generator=generator)[:POSITIONS].to(x.device)


def patches(layer: Weighted, x: Tensor, places: Tensor) -> Tensor:
    """Factors of the weights of each group at the outputs ``places`` (p,): (groups, n, terms).

    ``x`` is the layer's input, (N, C, H, W) or (N, ..., C); n is N times p.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[:, places].reshape(1, -1, x.shape[-1])
    x = _padded(layer, x)
    width = _outputs(layer, x)[1]
    down, along = (
        torch.arange(kernel, device=x.device) * dilation
        for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    rows = (places // width * layer.stride[0])[:, None, None] + down[:, None]
    columns = (places % width * layer.stride[1])[:, None, None] + along
    index = (rows * x.shape[-1] + columns).flatten()
    found = x.flatten(2)[:, :, index]
    found = found.view(len(x), layer.groups, -1, len(places), len(down) * len(along))
    return found.permute(1, 0, 3, 2, 4).reshape(layer.groups, len(x) * len(places), -1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, padding, mode=mode) if any(padding) else x


def _outputs(layer: nn.Conv2d, padded: Tensor) -> tuple[int, int]:
    """Rows and columns of the output."""
    height, width = (
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, dilation, stride in zip(
            padded.shape[-2:], layer.kernel_size, layer.dilation, layer.stride, strict=True
        )
    )
    return height, width


class Moments:
    """Means and second moments of a layer's inputs x, and of its inputs y in a reference network.

    Parameters
    ----------
    layer : a convolution or a linear layer of G groups and T terms a row
    """

    def __init__(self, layer: Weighted) -> None:
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        terms = layer.weight[0].numel()
        options = {"dtype": torch.float64, "device": layer.weight.device}
        self.count = 0
        self._sum, self._reference = (torch.zeros(groups, terms, **options) for _ in range(2))
        self._squares, self._cross, self._reference_squares = (
            torch.zeros(groups, terms, terms, **options) for _ in range(3)
        )

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Addition of patches ``x`` (G, n, T), and of the reference's at the same places."""
        y = x if y is None else y
        self.count += x.shape[1]
        squares = x.mT @ x
        self._sum += x.sum(1, dtype=torch.float64)
        self._reference += y.sum(1, dtype=torch.float64)
        self._squares += squares
        self._cross += squares if y is x else y.mT @ x
        self._reference_squares += squares if y is x else y.mT @ y

    @property
    def mean(self) -> Tensor:
        """E[x], float64 (G, T)."""
        return self._sum / self.count

    @property
    def reference_mean(self) -> Tensor:
        """E[y], float64 (G, T)."""
        return self._reference / self.count

    def hessian(self, centred: bool) -> Tensor:
        """E[x x'], float64 (G, T, T), or the covariance."""
        found = self._squares / self.count
        return found - self.mean[:, :, None] * self.mean[:, None] if centred else found

    def reference_hessian(self, centred: bool) -> Tensor:
        """E[y y'], float64 (G, T, T), or the covariance."""
        found = self._reference_squares / self.count
        means = self.reference_mean
        return found - means[:, :, None] * means[:, None] if centred else found

    def cross(self, centred: bool) -> Tensor:
        """E[y x'], float64 (G, T, T), or the covariance."""
        found = self._cross / self.count
        return found - self.reference_mean[:, :, None] * self.mean[:, None] if centred else found

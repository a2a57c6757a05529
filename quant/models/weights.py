# SPDX-License-Identifier: Apache-2.0
"""Weights that a training run begins with: random ones, or those of a checkpoint."""

import pathlib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ir.cli import UserError
from quant.models.names import in_our_names

#: Mean and standard deviation of ImageNet's colour channels, which published networks normalise
#: pixels of 0..1 with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TF_MEAN = TF_STD = (0.5, 0.5, 0.5)  #: of networks that were trained in TensorFlow

WRAPPERS = ("state_dict", "model")  #: keys under which training scripts store the weights
#: What torch.load raises for files that are none of its own, damaged ones among them.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """True for a tensor of real numbers that lie in memory one by one.

    Files can also hold sparse ones, complex ones, and ones that repeat a number without end.
    """
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def initialise(model: nn.Module) -> nn.Module:
    """Initialisation of convolutions with N(0, 2 / fan_out) (He et al., arXiv:1502.01852).

    ``fan_out`` is kernel area times output channels, grouped or not, as in torchvision. Batch-norm
    keeps its ones and zeros, a linear layer PyTorch's uniform distribution.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def load_pretrained(model: nn.Module, path: pathlib.Path | str) -> list[str]:
    """Replacement of ``model``'s weights by a checkpoint's; returns the names that were not loaded.

    Reads .pth, .pt (tensors only, no code is run) and .safetensors, with or without a wrapper of
    WRAPPERS and the prefix "module." of parallel training, by the names of torchvision, timm or
    Hugging Face. A classifier for another number of
    classes stays as it is and is what the result names. Raises UserError for everything else that
    is missing, left over or of another shape; then ``model`` is unchanged.
    """
    path = pathlib.Path(path)
    wanted = model.state_dict()
    given = in_our_names(_unwrap(_read(path), path), wanted)
    kept = _other_classifier(model, given)
    missing = [
        name for name in wanted if name not in given and not name.endswith("num_batches_tracked")
    ]  # absent from old checkpoints
    unexpected = [name for name in given if name not in wanted]
    for what, names in (("lacks", missing), ("has unexpected", unexpected)):
        if names:
            raise UserError(f"{path} {what} {_first(names)}: it belongs to another network")
    for name, value in given.items():
        if name not in kept and value.shape != wanted[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(value.shape)}, the model needs "
                f"{tuple(wanted[name].shape)}: {_advice(model, name, value)}"
            )
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} is not finite: its training diverged")
    model.load_state_dict({n: v for n, v in given.items() if n not in kept}, strict=False)
    return kept


def read_tensors(path: pathlib.Path) -> Any:
    """Content of a file of :func:`torch.save`: tensors, containers and numbers, on the CPU.

    No code is run. Raises one of :data:`UNREADABLE` or pickle.UnpicklingError for another file.
    """
    with warnings.catch_warnings(action="ignore"):  # at length, about a file that is refused
        return torch.load(path, map_location="cpu", weights_only=True)


def _read(path: pathlib.Path) -> object:
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix in (".pth", ".pt"):
            return read_tensors(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged; save the state_dict alone"
        ) from error
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a complete checkpoint: {reason}") from error
    raise UserError(f"{path}: checkpoints end in .pth, .pt or .safetensors")


def _unwrap(content: object, path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors by name, without wrapper and prefix."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(n, str) and is_plain(v) for n, v in content.items())
    ):
        raise UserError(
            f"{path} holds no state_dict, neither alone nor under "
            f"{' or '.join(map(repr, WRAPPERS))}"
        )
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _other_classifier(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Parameters of the last linear layer where ``given`` differs in the number of rows alone."""
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        return []
    name, layer = linear[-1]
    weight = given.get(f"{name}.weight")
    if (
        weight is None
        or weight.dim() != 2
        or weight.shape[1] != layer.in_features
        or len(weight) == layer.out_features
    ):
        return []
    return [f"{name}.{parameter}" for parameter, _ in layer.named_parameters()]


def _advice(model: nn.Module, name: str, value: Tensor) -> str:
    first, conv = _first_conv(model)
    if name == f"{first}.weight" and value.dim() == 4:
        if value.shape[2:] != conv.weight.shape[2:]:
            return "its stem is another one; choose it when building the model"
        if value.shape[1] != conv.weight.shape[1]:
            return f"it was trained on images of {value.shape[1]} channels"
    return "its width is another one; choose it when building the model"


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


class Normalisation:
    """Forward pre-hook that gives a network ``(x - mean) / std`` instead of pixels x in 0..1.

    ``mean`` and ``std`` have a number for each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"standard deviations must be positive, one a mean, not {tuple(std)}")
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Inputs of ``module`` with the images, the first of them, normalised."""
        x, *others = inputs
        mean, std = self.mean, self.std
        if (mean.device, mean.dtype) != (x.device, x.dtype):
            mean, std = mean.to(x), std.to(x)
        return ((x - mean) / std, *others)


def normalise(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Change of ``model``, in place, so that it takes pixels in 0..1 and normalises them itself.

    Names and values of its parameters stay. :func:`quant.lowering.prepare.prepare` folds the
    normalisation into the first layers, with the exact border. Raises ValueError for deviations
    that are not positive, and for a first convolution of another number of channels.
    """
    _, conv = _first_conv(model)
    if len(mean) != conv.in_channels:
        raise ValueError(f"images of {conv.in_channels} channels cannot take {len(mean)} means")
    model.register_forward_pre_hook(Normalisation(mean, std))

# SPDX-License-Identifier: Apache-2.0
"""Networks to train; state-dict names follow torchvision, those of BERT Hugging Face.

Importing this package does not import torch, so that command lines can list the names.
"""

import dataclasses
import pathlib
import pkgutil
import typing

if typing.TYPE_CHECKING:
    from torch import nn

#: Images with a side longer than this get the ImageNet stem where ``stem`` is "auto".
CIFAR_STEM_PIXELS = 64


@dataclasses.dataclass(frozen=True)
class Entry:
    """Description of a network that :func:`build` knows."""

    #: "module:function", called with (channels, classes, width=) and stem= where there is a choice;
    #: of a network that has a source with (source, shape, classes)
    builder: str
    width: int | None = None  #: channels of the stem unless told otherwise
    stems: tuple[str, ...] = ("cifar",)
    _: dataclasses.KW_ONLY
    reads: str = "images"  #: or "texts"; then all but linear layers is the host's
    tf: bool = False  #: trained in TensorFlow, on pixels in -1..1
    source: str = ""  #: what the network is made of, where it is no code of ours


MODELS = {
    "tiny": Entry("quant.models.resnet:TinyResNet", 16),
    "resnet20": Entry("quant.models.resnet:resnet20", 16),
    "resnet18": Entry("quant.models.resnet:resnet18", 64, ("cifar", "imagenet")),
    "resnet50": Entry("quant.models.resnet:resnet50", 64, ("cifar", "imagenet")),
    "mobilenet_v2": Entry("quant.models.mobilenet_v2:mobilenet_v2", 32, ("cifar", "imagenet")),
    "efficientnet_lite0": Entry(
        "quant.models.efficientnet:efficientnet_lite0", 32, ("cifar", "imagenet")
    ),
    "tf_mobilenet_v2": Entry(
        "quant.models.mobilenet_v2:tf_mobilenet_v2", 32, ("cifar", "imagenet"), tf=True
    ),
    "tf_efficientnet_lite0": Entry(
        "quant.models.efficientnet:tf_efficientnet_lite0", 32, ("cifar", "imagenet"), tf=True
    ),
    "bert": Entry("quant.models.bert:build", reads="texts", source="a Hugging Face model"),
    "onnx": Entry("quant.onnx.read:network", source="an ONNX file"),
}


def build(
    name: str,
    *,
    shape: tuple[int, ...],
    classes: int,
    width: int | None = None,
    stem: str = "auto",
    source: str | None = None,
) -> "nn.Module":
    """Network with random weights.

    Parameters
    ----------
    name : one of MODELS
    shape : (C, H, W) of the images, or (L,) of texts of L tokens
    classes : outputs
    width : channels of the stem, which the other layers' scale with; None: as published
    stem : "cifar" keeps the image's size, "imagenet" divides it by 4; "auto" decides by the size
    source : of "bert" the folder of a Hugging Face model, or its name on the hub, of whose
        architecture it is; of "onnx" a file, whose weights it has; these have no width and no stem

    Raises ValueError for what does not exist or does not fit, UserError for a ``source`` that
    cannot be read.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    entry = MODELS[name]
    if entry.source:
        texts = entry.reads == "texts"
        if (
            len(shape) != (1 if texts else 3)
            or source is None
            or width is not None
            or stem != "auto"
        ):
            raise ValueError(
                f"model {name!r} takes {'texts of a number of tokens' if texts else 'images'} and "
                f"{entry.source} as its source, which decides its width; leave width and stem out"
            )
        return pkgutil.resolve_name(entry.builder)(source, shape, classes)
    width = (entry.width or 0) if width is None else width
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"images need a shape (channels, height, width), not {tuple(shape)}")
    for what, value in (("classes", classes), ("width", width)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, not {value}")
    if stem == "auto":
        stem = "imagenet" if max(shape[1:]) > CIFAR_STEM_PIXELS else "cifar"
        stem = stem if stem in entry.stems else entry.stems[0]
    if stem not in entry.stems:
        raise ValueError(f"model {name!r} has no stem {stem!r}; it has {', '.join(entry.stems)}")
    choice = {"stem": stem} if len(entry.stems) > 1 else {}
    model = pkgutil.resolve_name(entry.builder)(shape[0], classes, width=width, **choice)
    if min(shape[1:]) < model.reduction:
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} pixels are too small for {name!r} with "
            f"the {stem} stem, which needs {model.reduction}x{model.reduction}"
        )
    return model


def load_pretrained(model: "nn.Module", path: pathlib.Path | str) -> list[str]:
    """Replacement of ``model``'s weights by those of a checkpoint.

    See :func:`quant.models.weights.load_pretrained`.
    """
    from quant.models import weights

    return weights.load_pretrained(model, path)

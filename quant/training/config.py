# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run, their defaults and limits; the command line is made from them."""

import dataclasses
import json
import pathlib
import reprlib
import tomllib
from collections.abc import Iterable
from typing import Any, Literal, Self

import pydantic
from pydantic_core import ErrorDetails

from ir.cli import did_you_mean
from quant.assignment.methods import METHODS, method
from quant.models import MODELS

FLOAT32 = "float32"  #: the method that does not quantise
PRESET = "by data set"  #: what ``--help`` says of a default that the data set decides
PARSERS = {".json": json.loads, ".toml": tomllib.loads}
CHECKPOINTS = (".pt", ".pth", ".safetensors")  #: ends of the names of files with weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults of a data set.

    Those of CIFAR, ImageNet and the texts are the paper's, section 4.1, where it names them.
    """

    float_epochs: int
    epochs: int
    batch_size: int
    lr: float
    model: str = "resnet18"
    float_lr: float = 0.1
    optimiser: str = "sgd"
    weight_decay: float = 1e-4
    hessian_images: int = 1024


_TEXT = Preset(
    float_epochs=3,
    epochs=3,
    batch_size=32,
    lr=2e-5,
    float_lr=2e-5,
    model="bert",
    optimiser="adamw",
    weight_decay=0.01,
    hessian_images=128,
)

#: Presets by data set name; ``--dataset`` offers these names.
PRESETS = {
    "digits": Preset(float_epochs=20, epochs=20, batch_size=64, lr=0.01, model="tiny"),
    "fashion-mnist": Preset(float_epochs=2, epochs=2, batch_size=128, lr=0.01, model="tiny"),
    "cifar10": Preset(float_epochs=150, epochs=150, batch_size=128, lr=8e-3),
    "cifar100": Preset(float_epochs=150, epochs=150, batch_size=128, lr=4e-3),
    "imagenet": Preset(float_epochs=90, epochs=90, batch_size=128, lr=1e-2),
    "sst2": _TEXT,
    "mnli": _TEXT,
    "movies": _TEXT,
}


def setting(
    group: str, text: str, default: object = ..., *, option: str | None = None, **limits: Any
) -> Any:
    """Field with its place in and its line of ``--help``.

    Without a default the preset has it. ``option`` is what the command line calls it.
    """
    extra: dict[str, Any] = {"group": group} | ({"option": option} if option else {})
    return pydantic.Field(default, description=text, json_schema_extra=extra, **limits)


class TrainConfig(pydantic.BaseModel):
    """Settings of a run, all that decides its result; written to ``config.json``.

    What is None or left out comes from the data set's preset and the method.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str = setting("task", f"one of {', '.join(PRESETS)}", "digits")
    data: str | None = setting("task", "folder of the data set's files", None)
    subset: int | None = setting("task", "train on the first samples only", None, ge=2)
    size: int | None = setting("task", "pixels of ImageNet's images", None, ge=1, le=4096)
    tokenizer: str | None = setting(
        "task",
        "of texts: folder of a Hugging Face model or its name on the hub, whose tokenizer "
        "and architecture are taken; by default that of pretrained",
        None,
    )
    max_length: int | None = setting("task", "tokens of a text", None, ge=8, le=65536)

    model: str = setting("network", f"one of {', '.join(MODELS)}")
    width: int | None = setting("network", "channels of the first layer", None, ge=1, le=4096)
    stem: Literal["auto", "cifar", "imagenet"] = setting(
        "network", "first layer for small or for large images", "auto"
    )
    pretrained: str | None = setting(
        "network",
        "start from this checkpoint, by default without float epochs; of bert also "
        "folder of a Hugging Face model or its name on the hub, which has float epochs",
        None,
    )
    onnx: str | None = setting(
        "network",
        "ONNX file to take network and weights from, by default without float epochs; needs the "
        "extra onnx",
        None,
    )
    normalised: bool = setting(
        "network",
        "the checkpoint, or ONNX file, wants pixels less ImageNet's mean by its deviation, as "
        "torchvision's do (that of a tf_ model in -1..1): the network does that itself, in its "
        "first layer",
        False,
    )

    method: str = setting("schemes", f"one of {', '.join((FLOAT32, *METHODS))}", "rmsmp")
    ratio: str | None = setting(
        "schemes",
        "percent of rows in PoT-4 (or APoT-4), Fixed-4 and "
        "Fixed-8, as 65:30:5 (default: the method's)",
        None,
    )
    board: str | None = setting(
        "schemes",
        "train for the array that gateware.build chooses on this board for the network: "
        "its rows per tile and, of rmsmp, its ratio",
        None,
    )
    first_last: Literal["same", "w8a8"] = setting(
        "schemes", "first and last layer like the others, or in 8 bits", "same"
    )
    act_bits: Literal[4, 8] = setting("schemes", "bits of activations", 4)
    assign: Literal["hessian", "random", "fisher", "error"] = setting(
        "schemes",
        "how rows are chosen for Fixed-8: hessian is the paper's rule, error what it saves",
        "hessian",
    )
    split: Literal["variance", "kurtosis", "random", "error"] = setting(
        "schemes",
        "how the other rows are split between PoT-4 and Fixed-4: variance is the paper's rule, "
        "error what PoT-4 costs more",
        "variance",
    )
    reassign_every: int = setting("schemes", "epochs between two assignments", 10, ge=1)
    hessian_images: int = setting(
        "schemes", "training samples that sensitivities are measured on", ge=1
    )
    tile_rows: int = setting("schemes", "rows of one row tile of the hardware", 16, ge=1)
    calibration_images: int | None = setting(
        "schemes",
        "training samples on which rounding errors of weights are compensated before quantised "
        "training (default: rounded to the nearest)",
        None,
        ge=2,
    )
    start: str | None = setting(
        "network",
        "folder of a finished run whose quantised network is trained on, with its settings",
        None,
        option="from",
    )

    float_epochs: int = setting("training", "epochs before quantisation", ge=0)
    epochs: int = setting("training", "epochs of quantised training; float32 has none", ge=0)
    batch_size: int = setting("training", "samples in a batch, of all processes together", ge=2)
    optimiser: Literal["sgd", "adamw"] = setting("training", "sgd has Nesterov momentum 0.9")
    float_lr: float = setting("training", "peak learning rate before quantisation", gt=0)
    lr: float = setting("training", "peak learning rate of quantised training", gt=0)
    weight_decay: float = setting("training", "of weights, not of scales and batch-norm", ge=0)
    seed: int = setting("training", "of everything random", 1, ge=0, lt=1 << 63)
    integer_samples: int | None = setting(
        "training", "test samples that the integer models compute (default: all)", None, ge=1
    )

    device: Literal["auto", "cpu", "cuda"] = setting(
        "machine", "auto takes CUDA where there is one", "auto"
    )
    # On 2 busy cores a second one tripled the time, because the tensors are small and waiting
    # threads spin.
    threads: int = setting(
        "machine", "threads of torch, 0 for one per core; digests depend on it", 1, ge=0, le=1024
    )
    amp: Literal["off", "bf16"] = setting("machine", "mixed precision of training", "off")
    compile: bool = setting("machine", "compile training steps with torch.compile", False)

    tensorboard: bool = setting(
        "output", "write TensorBoard events, beside metrics.csv; needs the extra tensorboard", False
    )
    plots: bool = setting("output", "draw curves, schemes and weights", True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in given.items() if value is not None}
        for key in ("dataset", "model", "method", "ratio", "board", "pretrained", "onnx", "start"):
            if not isinstance(given.get(key, ""), str):
                raise ValueError(f"{key} must be text, not {given[key]!r}")
        dataset = given.get("dataset", cls.model_fields["dataset"].default)
        if dataset not in PRESETS:
            raise ValueError(_unknown("dataset", dataset, PRESETS))
        of_file = {"model": "onnx"} if "onnx" in given else {}
        values = dataclasses.asdict(PRESETS[dataset]) | of_file | given
        if values["model"] not in MODELS:
            raise ValueError(_unknown("model", values["model"], MODELS))
        has = check_model_reads(values["model"], dataset)
        begun = "pretrained" in given or "onnx" in given
        if has == "texts" and "pretrained" in given and is_hugging_face(given["pretrained"]):
            begun = False  # it has never seen the task
            values.setdefault("tokenizer", given["pretrained"])
        name = values.get("method", cls.model_fields["method"].default)
        if name == FLOAT32:
            if "ratio" in given:
                raise ValueError("method float32 has no schemes: leave ratio out")
            values["epochs"] = 0
        elif name not in METHODS:
            raise ValueError(_unknown("method", name, (FLOAT32, *METHODS)))
        else:
            mix = str(method(name, values.get("ratio")).ratio)
            if name != "rmsmp" or "ratio" in values or "board" not in values:
                values["ratio"] = mix
            if begun:
                values["float_epochs"] = given.get("float_epochs", 0)
        return values

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.subset is not None and self.subset < self.batch_size:
            raise ValueError(f"subset {self.subset} is less than one batch of {self.batch_size}")
        if self.normalised and not (self.pretrained or self.onnx):
            raise ValueError(
                "normalised tells how a checkpoint was trained: name it with pretrained"
            )
        self._consistent_with_file()
        if MODELS[self.model].reads == "texts":
            self._consistent_for_texts()
        return self

    def _consistent_with_file(self) -> None:
        if (self.model == "onnx") != (self.onnx is not None):
            raise ValueError(
                "model onnx is that of a file: name it with --onnx, and leave --model out"
            )
        for name, default in (("width", None), ("stem", "auto")):
            if self.onnx and getattr(self, name) != default:
                raise ValueError(f"{name} is that of the network in {self.onnx}: leave it out")

    def _consistent_for_texts(self) -> None:
        if not self.pretrained:
            raise ValueError(
                f"model {self.model!r} starts from a trained one: name a Hugging Face "
                "model with --pretrained"
            )
        if not self.tokenizer:
            raise ValueError(
                "a checkpoint has no tokenizer: name the Hugging Face model that it "
                "was made from with --tokenizer"
            )
        for name, default in (("width", None), ("stem", "auto"), ("normalised", False)):
            if getattr(self, name) != default:
                raise ValueError(f"{name} is a setting of networks for images: leave it out")

    @property
    def network(self) -> str:
        """Name of the network: of its file, where it comes from one."""
        return pathlib.Path(self.onnx).stem if self.onnx else self.model

    @property
    def given_rows(self) -> int | None:
        """Rows of a tile, where they were given: None where the board decides them."""
        open_rows = self.board is not None and "tile_rows" not in self.model_fields_set
        return None if open_rows else self.tile_rows

    @classmethod
    def resolve(cls, **given: Any) -> Self:
        """Settings that ``given`` make complete.

        Raises ValueError, one line, naming what is unknown or makes no sense.
        """
        try:
            return cls(**given)
        except pydantic.ValidationError as error:
            raise ValueError(_one_line(error.errors()[0], cls)) from error

    def dump(self) -> str:
        """Content of ``config.json``."""
        return json.dumps(self.model_dump(), indent=2) + "\n"

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Settings in a file; raises ValueError for one that does not hold any."""
        return cls.resolve(**read_settings(path))


def check_model_reads(model: str, dataset: str) -> str:
    """Kind of samples in a data set of PRESETS, "images" or "texts".

    Raises ValueError where ``model`` reads something else.
    """
    wants, has = MODELS[model].reads, MODELS[PRESETS[dataset].model].reads
    if wants != has:
        raise ValueError(f"model {model!r} reads {wants}, {dataset} has {has}")
    return has


def is_hugging_face(pretrained: str) -> bool:
    """True if ``pretrained`` is a Hugging Face model's folder or name, and no checkpoint file."""
    return not pretrained.endswith(CHECKPOINTS)


def read_settings(path: pathlib.Path) -> dict[str, Any]:
    """Settings by name from a ``.json`` or ``.toml`` file, ``float-lr`` and ``float_lr`` alike.

    Raises ValueError naming the file.
    """
    if path.suffix not in PARSERS:
        raise ValueError(f"{path}: settings are read from .json and .toml files")
    try:
        content = PARSERS[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold settings by name")
    settings = {name.replace("-", "_"): value for name, value in content.items()}
    if len(settings) < len(content):
        twice = next(name for name in content if name.replace("-", "_") in content and "-" in name)
        raise ValueError(f"{path} has {twice} in both spellings")
    return settings


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"unknown {kind} {name!r}; known are {', '.join(known)}{did_you_mean(name, known)}"


def _one_line(error: ErrorDetails, cls: type[TrainConfig]) -> str:
    if error["type"] == "value_error":
        return str(error.get("ctx", {})["error"])
    name = error["loc"][0]
    if error["type"] == "extra_forbidden":
        like = did_you_mean(str(name), cls.model_fields)
        return f"unknown setting {name!r}{like or '; known are ' + ', '.join(cls.model_fields)}"
    message = error["msg"].removeprefix("Input ")
    return f"{name} {message[:1].lower()}{message[1:]}, not {reprlib.repr(error['input'])}"

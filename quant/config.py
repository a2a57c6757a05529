# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run."""

import dataclasses
import json
import pathlib
from typing import Self

from quant.ratio import Ratio


@dataclasses.dataclass(frozen=True)
class Preset:
    """What depends on the data set and can be overridden."""

    float_epochs: int
    epochs: int
    batch_size: int
    shift: int           #: pixels of random translation in training
    flip: bool           #: random mirror images in training


#: Presets by data set name; ``--dataset`` offers these names.
PRESETS = {
    "digits": Preset(float_epochs=20, epochs=20, batch_size=64, shift=1, flip=False),
    "fashion-mnist": Preset(float_epochs=2, epochs=2, batch_size=128, shift=0, flip=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the result of a run; written to ``config.json``.

    Raises ValueError for a value that makes no sense, naming it.
    """

    dataset: str = "digits"
    data: str | None = None         #: folder of the files; None: where their package is
    ratio: str = "65:30:5"          #: PoT4:Fixed4:Fixed8 in percent
    tile_rows: int = 16             #: rows of one row tile of the hardware
    width: int = 16                 #: channels of the network's first layer
    float_epochs: int = 20          #: epochs before quantisation
    epochs: int = 20                #: epochs of quantisation-aware training
    batch_size: int = 64
    float_lr: float = 0.1           #: peak learning rate before quantisation
    lr: float = 0.01                #: peak learning rate of quantisation-aware training
    weight_decay: float = 1e-4
    reassign_every: int = 10        #: epochs between two assignments of schemes
    hessian_images: int = 1024      #: training images that sensitivities are measured on
    shift: int = 1
    flip: bool = False
    #: Of torch, 0: one per core; the digest depends on it. On 2 busy cores a second one tripled
    #: the time, because the tensors are small and waiting threads spin.
    threads: int = 1
    subset: int | None = None       #: train on this many images only
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dataset not in PRESETS:
            raise ValueError(f"unknown dataset {self.dataset!r}; known are {', '.join(PRESETS)}")
        Ratio.parse(self.ratio)
        for field, least in (("tile_rows", 1), ("width", 1), ("float_epochs", 0), ("epochs", 0),
                             ("batch_size", 2), ("reassign_every", 1), ("hessian_images", 1),
                             ("shift", 0), ("threads", 0), ("seed", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, not {getattr(self, field)}")
        for field in ("float_lr", "lr"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"{field} must be positive, not {getattr(self, field)}")
        if self.subset is not None and self.subset < self.batch_size:
            raise ValueError(f"subset {self.subset} is less than one batch of {self.batch_size}")

    @classmethod
    def resolve(cls, dataset: str, **given: object) -> Self:
        """Its preset, overridden by everything ``given`` that is not None."""
        preset = dataclasses.asdict(PRESETS[dataset]) if dataset in PRESETS else {}
        return cls(dataset=dataset, **preset | {k: v for k, v in given.items() if v is not None})

    def save(self, path: pathlib.Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Inverse of :meth:`save`; raises ValueError for a file that is not one."""
        try:
            return cls(**json.loads(path.read_text()))
        except TypeError as error:
            raise ValueError(f"{path} does not hold the settings of a run: {error}") from error

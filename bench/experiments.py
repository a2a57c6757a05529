# SPDX-License-Identifier: Apache-2.0
"""Which trainings the accuracy tables are made of."""

import dataclasses
from collections.abc import Iterator

FLOAT = "float32"
#: Settings that say where files are.
PLACES = ("data", "tokenizer", "pretrained")
#: Methods of the paper's Table 1 after the baseline, in its order.
TABLE1 = ("fixed4", "pot4", "apot4", "pot4+fixed4", "apot4+fixed4", "fixed4+fixed8", "rmsmp")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: a label and the settings that set it apart."""

    label: str
    settings: dict[str, object]
    paper: str | None = None  #: method of the paper's table to print beside it
    seeds: int | None = None  #: where it has others than the table's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Methods times seeds on one network and data set.

    Every seed trains one float network, from which all rows of that seed start: their differences
    are paired. ``settings`` go to all trainings, ``float_settings`` to that of the float network.
    """

    name: str
    title: str
    settings: dict[str, object]
    float_settings: dict[str, object]
    rows: tuple[Row, ...]
    seeds: int
    paper: tuple[str, str] | None = None  #: (dataset, model) of the paper's table beside it

    def runs(self) -> Iterator["Run"]:
        """All trainings, the float ones first."""
        most = max(row.seeds or self.seeds for row in self.rows)
        for seed in range(1, most + 1):
            yield Run(self, None, seed)
        for seed in range(1, most + 1):
            for row in self.rows:
                if seed <= (row.seeds or self.seeds):
                    yield Run(self, row, seed)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training; ``row`` None is the float network that the others of its seed start from."""

    table: Table
    row: Row | None
    seed: int

    @property
    def label(self) -> str:
        return self.row.label if self.row else FLOAT

    @property
    def name(self) -> str:
        """Folder of the run."""
        label = self.label.replace(" ", "-").replace(",", "").replace("+", "-")
        return f"{self.table.name}-{label}-{self.seed}"

    @property
    def start(self) -> "Run":
        """The float network of this seed."""
        return Run(self.table, None, self.seed)

    @property
    def settings(self) -> dict[str, object]:
        """Settings of :class:`~quant.training.config.TrainConfig` that no machine changes."""
        return {key: value for key, value in self._chosen().items() if key not in PLACES}

    @property
    def places(self) -> dict[str, object]:
        """The other settings, which say where files are; the network it starts from is not
        among those of a row."""
        return {key: value for key, value in self._chosen().items() if key in PLACES}

    def _chosen(self) -> dict[str, object]:
        chosen = (
            self.table.settings
            | {"seed": self.seed}
            | (self.row.settings if self.row else self.table.float_settings | {"method": FLOAT})
        )
        if chosen["method"] == FLOAT:
            chosen.pop("epochs", None)  # of quantised training
        return chosen


def _methods(*names: str, paper: bool = True) -> tuple[Row, ...]:
    return tuple(Row(n, {"method": n}, n if paper else None) for n in names)


def _longer(epochs: int, lr: float) -> Row:
    """The float network trained on for as long as the quantised ones are."""
    return Row("float32 longer", {"method": FLOAT, "float_epochs": epochs, "float_lr": lr})


#: Seeds of the rows of the narrow table whose differences matter most.
MORE_SEEDS = 10
NARROW = Table(
    name="narrow",
    title="Fashion-MNIST, tiny residual network of width 4, 5,000 training images, 8 float "
    "epochs and 1 quantised epoch",
    settings={
        "dataset": "fashion-mnist",
        "model": "tiny",
        "width": 4,
        "subset": 5_000,
        "epochs": 1,
        "batch_size": 64,
        "lr": 0.001,
    },
    float_settings={"float_epochs": 8},
    rows=(
        _longer(1, 0.001),
        *(
            dataclasses.replace(
                row, seeds=MORE_SEEDS if row.label in ("fixed4", "pot4", "rmsmp") else None
            )
            for row in _methods(*TABLE1)
        ),
        Row("rmsmp, random rows", {"method": "rmsmp", "assign": "random"}),
        Row("rmsmp, fisher rows", {"method": "rmsmp", "assign": "fisher"}),
        Row("rmsmp, kurtosis split", {"method": "rmsmp", "split": "kurtosis"}),
        Row("rmsmp, random split", {"method": "rmsmp", "split": "random"}),
        Row("fixed4, w8a8", {"method": "fixed4", "first_last": "w8a8"}),
        Row("pot4, w8a8", {"method": "pot4", "first_last": "w8a8"}),
        Row("rmsmp, w8a8", {"method": "rmsmp", "first_last": "w8a8"}),
    ),
    seeds=5,
    paper=("cifar10", "resnet18"),
)

RESNET20 = Table(
    name="resnet20",
    title="Fashion-MNIST, ResNet-20, 20,000 training images, 2 float epochs and 1 quantised epoch",
    settings={
        "dataset": "fashion-mnist",
        "model": "resnet20",
        "subset": 20_000,
        "epochs": 1,
        "lr": 0.01,
    },
    float_settings={"float_epochs": 2},
    rows=(_longer(1, 0.01), *_methods("fixed4", "pot4", "rmsmp")),
    seeds=3,
    paper=("cifar10", "resnet18"),
)

TABLES = {table.name: table for table in (NARROW, RESNET20)}

# SPDX-License-Identifier: Apache-2.0
"""The files that ``gateware.build`` wrote: what is in the FPGA, and the network for it."""

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from .errors import WrongPackage
from .manifest import check_accelerator, check_program

ACCELERATOR = "accelerator.json"
PROGRAM = "program.json"
IMAGE = "program.bin"
GOLDEN = "golden.npz"
OUTPUT = "output."  #: of golden outputs but the logits, before the tensor's name
#: What zipfile and numpy raise for a damaged file.
DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    MemoryError,  # an array that claims more elements than there are
    OverflowError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
LAYERS = "layers"  #: folder of a program for each layer, where the host computes the rest


class Package:
    """Folder of a build, or a copy of it.

    Parameters
    ----------
    folder : Path
        Place of the files.
    layer : str, optional
        Of a hybrid network: the layer whose program it is.

    accelerator : dict
        What is in the FPGA and how it is reached: :data:`ACCELERATOR`.
    program : dict
        The network: :data:`PROGRAM`.
    image : bytes
        What the accelerator executes: :data:`IMAGE`.

    Raises WrongPackage for files that are missing, damaged or of different builds or networks.
    """

    def __init__(self, folder: Path, layer: Optional[str] = None) -> None:
        self.root = Path(folder)
        self.folder = self.root if layer is None else self.root / LAYERS / layer
        self.accelerator = self._json(self.root / ACCELERATOR, check_accelerator)
        self.program = self._json(self.folder / PROGRAM, check_program)
        try:
            self.image = (self.folder / IMAGE).read_bytes()
        except OSError as error:
            raise WrongPackage(f"cannot read {self.folder / IMAGE}: {error.strerror}") from error
        if len(self.image) != self.program["image_bytes"]:
            raise WrongPackage(
                "{} has {} bytes instead of {}; copy it again".format(
                    self.folder / IMAGE, len(self.image), self.program["image_bytes"]
                )
            )
        if hashlib.blake2s(self.image).hexdigest() != self.program["image_digest"]:
            raise WrongPackage(
                f"{self.folder / IMAGE} is not the program of {PROGRAM}: it is damaged or "
                "belongs to another network; copy the whole build folder"
            )
        if self.program["config_digest"] != self.accelerator["config_digest"]:
            raise WrongPackage(
                f"{self.folder / PROGRAM} and {ACCELERATOR} are of different builds; copy "
                "the whole build folder"
            )
        self.input = {
            "place": self.program["input"],
            "space_to_depth": self.program["space_to_depth"],
            "scale": self.program["input_scale"],
        }
        #: Tensors that a run leaves, by name; the logits first.
        self.outputs = {
            output["name"]: dict(output, wide_bytes=self.program["wide_bytes"])
            for output in self.program["outputs"]
        }
        #: What the network returns: which of them, and functions for the host.
        self.results: List[Dict[str, Any]] = self.program["results"]
        self.output_bytes: int = self.program["output_bytes"]
        #: Images of a run, and bytes from an output to the same of the next image.
        self.batch: int = self.program["batch"]
        self.output_stride: int = self.program["output_stride"]
        self.class_names = list(self.program["class_names"])
        self.name = self.program["name"]
        self.graph_digest: str = self.program["graph_digest"]
        #: The same, or of a layer the digest of the hybrid network that it belongs to.
        self.network_digest: str = self.program["network_digest"]
        self._segments = self.program["segments"]

    @staticmethod
    def layers(folder: Path) -> List[str]:
        """Layers that a build folder has programs for; none where it has one for the network."""
        return sorted(path.name for path in (Path(folder) / LAYERS).glob("*") if path.is_dir())

    def layer(self, descriptor: int) -> str:
        """Name of the layer that ``descriptor`` belongs to; ``end`` behind the last."""
        for segment in self._segments:
            if segment["first"] <= descriptor < segment["last"]:
                return segment["layer"]
        return "end"

    def golden(self) -> Dict[str, np.ndarray]:
        """Golden ``images``, codes (N, C, H, W), and ``logits`` (N, classes) that they must give.

        Where the network returns several tensors also the others, ``output.NAME`` (N, C, H, W).

        Raises WrongPackage for a file that is missing, damaged or of another network.
        """
        path = self.folder / GOLDEN
        try:
            with path.open("rb") as file, np.load(file) as stored:
                wanted = ["images", "logits", "graph_digest"]
                wanted += [name for name in stored.files if name.startswith(OUTPUT)]
                golden = {name: stored[name] for name in wanted}
        except DAMAGE as error:
            raise WrongPackage(f"cannot read {path} ({error}); build it again") from error
        digest = str(golden.pop("graph_digest"))
        if digest != self.graph_digest:
            raise WrongPackage(
                f"{path} belongs to another network ({digest[:16]}) than {PROGRAM} "
                f"({self.graph_digest[:16]}); copy the whole build folder"
            )
        self._check_golden(golden, path)
        return golden

    def _check_golden(self, golden: Dict[str, np.ndarray], path: Path) -> None:
        """Raise WrongPackage unless ``golden`` has all that a self-test compares, as integers."""
        places = {name: output["place"] for name, output in self.outputs.items()}
        shapes = {
            name: (place["channels"], place["height"], place["width"])
            for name, place in places.items()
        }
        logits, *others = dict.fromkeys(result["tensor"] for result in self.results)
        wanted = {"images": tuple(self.program["space_to_depth"]["shape"])}
        wanted["logits"] = (int(np.prod(shapes[logits])),)
        wanted.update({OUTPUT + name: shapes[name] for name in others})
        count = golden["images"].shape[:1]
        for name, shape in wanted.items():
            found = golden.get(name)
            if (
                found is None
                or found.dtype.kind not in "iu"
                or found.shape != count + shape
                or not len(found)
            ):
                raise WrongPackage(f"{path} is damaged ({name}); build it again")

    def bitstream(self) -> Path:
        """Path of the bitstream: where the tools left it, or beside the other files.

        Raises WrongPackage where there is none.
        """
        name = self.accelerator["bitstream"]
        for path in (self.root / name, self.root / Path(name).name):
            if path.is_file():
                return path
        raise WrongPackage(
            f"no bitstream {Path(name).name} in {self.root}; make it with the tools of the "
            "board and copy it there"
        )

    def _json(self, path: Path, check: Callable[[Any], None]) -> Dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise WrongPackage(
                f"cannot read {path}: {error.strerror}; python -m gateware.build writes it"
            ) from error
        except (ValueError, RecursionError) as error:
            raise WrongPackage(f"{path} is damaged ({error}); copy it again") from error
        try:
            check(content)
        except ValueError as error:
            raise WrongPackage(
                f"{path} is damaged or is not of this release ({error}); build it again"
            ) from error
        return content

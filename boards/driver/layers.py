# SPDX-License-Identifier: Apache-2.0
"""A hybrid network: the accelerator computes its linear layers on call, the host the rest."""

from typing import Dict, Iterator, Mapping, Optional

import numpy as np

from .accelerator import TIMEOUT, Accelerator, SelfTest
from .errors import WrongPackage
from .hardware import Hardware
from .package import Package


class Layers(Mapping[str, Accelerator]):
    """Mapping of each layer's name to an :class:`Accelerator` with its program, on one hardware.

    Parameters
    ----------
    hardware : Hardware
        How it is reached; :meth:`close` closes it.
    packages : dict of str to Package
        By the name of the layer.
    timeout : float
        Seconds that a layer may take.

    Raises WrongPackage for layers of different networks, and as :class:`Accelerator` does.
    """

    def __init__(
        self, hardware: Hardware, packages: Mapping[str, Package], timeout: float = TIMEOUT
    ) -> None:
        first = next(iter(packages.values()))
        for package in packages.values():
            if package.network_digest != first.network_digest:
                raise WrongPackage(
                    f"{package.folder} belongs to another network ({package.network_digest[:16]}) "
                    f"than {first.folder} ({first.network_digest[:16]}); copy the whole build "
                    "folder"
                )
        self._hardware = hardware
        self._layers: Dict[str, Accelerator] = {
            name: Accelerator(hardware, package, timeout) for name, package in packages.items()
        }

    def __getitem__(self, name: str) -> Accelerator:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def run(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Sums of layer ``name``, int64 (rows, length).

        Integer ``codes`` (channels, length) are what its quantiser makes of the vectors of a
        sequence, or (channels, 1) of one. Raises ValueError for another shape or range; see
        :meth:`Accelerator.run`.
        """
        accelerator = self._layers[name]
        place = accelerator.package.input["place"]
        length = place["height"] * place["width"]
        if codes.shape != (place["channels"], length):
            raise ValueError(
                "layer {!r} reads (channels, length) = {}, not {}".format(
                    name, (place["channels"], length), codes.shape
                )
            )
        image = codes.reshape(place["channels"], place["height"], place["width"])
        return accelerator.run(image).logits.reshape(-1, length)

    def selftest(self, images: Optional[int] = None) -> Dict[str, SelfTest]:
        """Outcome of the golden inputs by layer; see :meth:`Accelerator.selftest`."""
        return {name: accelerator.selftest(images) for name, accelerator in self.items()}

    def close(self) -> None:
        """End of use: abort of what is running, release of the hardware."""
        next(iter(self._layers.values())).abort()  # they are one
        self._hardware.close()

    def __enter__(self) -> "Layers":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

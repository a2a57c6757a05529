# SPDX-License-Identifier: Apache-2.0
"""Names that modules get in a flat graph: those of the user's model, as far as that is possible."""

import keyword
from collections.abc import Iterable, Iterator

from torch import fx, nn

from quant.nn.layers import QuantConv2d, QuantLinear

#: Attributes that modules have already: a submodule of that name could not be reached.
OF_MODULES = frozenset(dir(nn.Module()))
#: And what layers have besides, which may hold modules of the user's.
OF_LAYERS = OF_MODULES.union(
    *(
        dir(layer)
        for layer in (
            QuantConv2d(1, 1, 1),
            QuantLinear(1, 1),
            nn.BatchNorm1d(1),
            nn.BatchNorm2d(1),
        )
    ),
    ("alpha", "scheme", "quantise"),
)
OF_GRAPHS = frozenset(("self", *dir(fx.GraphModule(nn.Module(), fx.Graph()))))


class Names:
    """Names in use, and which of the user's are free.

    A name that Python or :class:`torch.fx.GraphModule` takes for something else, such as ``graph``,
    gets an underscore.

    Parameters
    ----------
    called : paths of all modules that are called in the user's model
    tensors : and of all tensors
    """

    def __init__(self, called: Iterable[str], tensors: Iterable[str] = ()) -> None:
        self.tensors = set(tensors)
        paths = [*called, *self.tensors]
        self.containers = {prefix for path in paths for prefix in _prefixes(path)}
        self.known = self.containers.union(paths)
        self.used: set[str] = set()

    def place(self, path: str) -> str:
        """Name of what the user's model has at ``path``."""
        place = theirs = ""
        for part in filter(None, path.split(".")):
            taken = OF_MODULES if place else OF_GRAPHS
            holder, theirs = theirs, _join(theirs, part)
            if f"{holder}.weight" in self.tensors and theirs not in self.tensors:
                taken = OF_LAYERS
            while part in taken or keyword.iskeyword(part):
                part += "_"
                while _join(place, part) in self.known:
                    part += "_"
            place = _join(place, part)
        return place

    def claim(self, path: str) -> str:
        """Name of a layer, whose parameters are at ``path``: that, or a sibling if it is used."""
        stem = name = self.place(path)
        count = 1
        while name in self.used or (count > 1 and name in self.known):
            count += 1
            name = f"{stem}_{count}"
        self.used.add(name)
        return name

    def free(self, path: str, operation: str) -> str:
        """Name for ``operation``, which has no parameters and is called at ``path``.

        It is ``path`` itself for the first call of a module, a sibling for each further one, and
        inside of a module that holds others. Never is such a name above another one, so that its
        module may be replaced.
        """
        inside = not path or path in self.containers
        stem = self.place(_join(path, operation) if inside else path)
        name, count = stem, 1
        while name in self.used or name in self.containers:
            count += 1
            name = f"{stem}_{count}"
        self.used.add(name)
        return name


def _join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _prefixes(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path

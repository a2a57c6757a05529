# SPDX-License-Identifier: Apache-2.0
"""A network of your own: prepare, assign, train, export, compare; some seconds on random images.

python -m examples.own_model
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir.graph import IntGraph
from ir.vectors import Vectors, beside
from quant.assignment.assign import assign
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare

TILE_ROWS = 16  # of the hardware; a tile carries 10 rows in PoT-4, 5 in Fixed-4, 1 in Fixed-8


class Network(nn.Module):
    """Any module of convolutions, batch-norm, ReLU, additions, pools and linear layers will do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


def main() -> tuple[IntGraph, Vectors]:
    torch.manual_seed(1)
    images, labels = torch.randint(256, (256, 3, 16, 16)), torch.randint(4, (256,))
    x = images / 255  # what networks read lies in 0..1

    model = prepare(Network(), x[:2])  # quantisers everywhere; names stay
    calibrate(model, x)  # clips of the activations
    chosen = method("rmsmp")  # 65:30:5
    assign(model, chosen, TILE_ROWS, row_scores("hessian", model, x))

    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for batch in torch.arange(256).split(32):
        loss = F.cross_entropy(model(x[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()  # keeps the scales in their range, too

    graph = export(model.eval(), x, name="own", ratio=chosen.ratio, tile_rows=TILE_ROWS)
    logits = verify.verify(graph, images.numpy())  # torch's integers = the golden model's
    with torch.no_grad():
        agree = np.mean(logits.argmax(1) == model(x).argmax(1).numpy())
    print(
        f"{len(graph.nodes)} nodes, digest {graph.digest}, integers decide as the trained "
        f"network on {agree:.1%} of {len(x)} images"
    )
    return graph, Vectors.of(graph, images.numpy(), logits)


if __name__ == "__main__":
    graph, vectors = main()
    graph.save("own.safetensors")
    vectors.save(beside("own.safetensors"))  # inputs and logits of the simulation
    print(
        "python -m gateware.build --board zedboard --graph own.safetensors\n"
        "python -m sim.run build/zedboard"
    )

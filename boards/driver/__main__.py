# SPDX-License-Identifier: Apache-2.0
"""Use an accelerator from the command line of its board.

python3 -m driver selftest DIR               golden images (or inputs of layers): all results equal
python3 -m driver classify DIR IMAGE.npy     class of an image, or of each of several
python3 -m driver throughput DIR --images N  images per second
python3 -m driver info DIR                   what is in the FPGA

DIR is a folder that gateware.build wrote, with the bitstream in it. Exit status 0 when all is well,
1 when the self-test finds a difference, 2 for an error, which is one line.
"""

import argparse
import json
import os
import sys
from typing import Any, Dict, List, Optional

import numpy as np

from . import TIMEOUT, Accelerator, DriverError, Layers, Package, connect, connect_layers

EXIT_WRONG, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python3 -m driver",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("command", choices=sorted(COMMANDS))
    p.add_argument("folder", metavar="DIR")
    p.add_argument(
        "file",
        nargs="?",
        metavar="IMAGE.npy",
        help="for classify: numpy array of one image (C, H, W) or of several (N, C, H, W); "
        "integers are codes, floats are pixels as training saw them",
    )
    p.add_argument(
        "--images",
        type=int,
        default=None,
        metavar="N",
        help="for selftest and throughput (default: all golden images, and 100)",
    )
    p.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="of one run (default: %(default)s)",
    )
    p.add_argument("--loaded", action="store_true", help="the bitstream is loaded already")
    p.add_argument("--port", metavar="DEVICE", help="serial port of a board without a processor")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def selftest(accelerator: Accelerator, args: argparse.Namespace) -> Dict[str, Any]:
    """Report of the golden images of a network: ``wrong`` ones, and ``cycles`` of each."""
    result = accelerator.selftest(args.images)
    equal = result.images - len(result.wrong)
    cycles = round(sum(result.cycles) / max(1, result.images))
    text = f"{equal} of {result.images} golden images: all logits equal; {cycles} cycles per image"
    if result.wrong:
        text += "\nwrong: images {}".format(", ".join(map(str, result.wrong)))
    return {
        "text": text,
        "images": result.images,
        "wrong": result.wrong,
        "cycles": result.cycles,
        "exit": EXIT_WRONG if result.wrong else 0,
    }


def selftest_layers(layers: Layers, args: argparse.Namespace) -> Dict[str, Any]:
    """Report of the golden inputs of a hybrid network: ``wrong`` layers, and ``cycles`` of each."""
    results = layers.selftest(args.images)
    wrong = sorted(name for name, result in results.items() if result.wrong)
    cycles = {name: sum(result.cycles) // max(1, result.images) for name, result in results.items()}
    text = (
        f"{len(results) - len(wrong)} of {len(results)} layers: all results of golden inputs "
        f"equal; {sum(cycles.values())} cycles for all of them"
    )
    if wrong:
        text += "\nwrong: layers {}".format(", ".join(wrong))
    return {
        "text": text,
        "layers": len(results),
        "wrong": wrong,
        "cycles": cycles,
        "exit": EXIT_WRONG if wrong else 0,
    }


def throughput(accelerator: Accelerator, args: argparse.Namespace) -> Dict[str, Any]:
    """Report of the speed: ``images``, ``seconds`` and ``cycles_per_image``."""
    result = accelerator.throughput(100 if args.images is None else args.images)
    clock = accelerator.package.accelerator["clock_hz"]
    cycles = result.cycles / result.images
    text = (
        f"{result.images} images in {result.seconds:.3f} s: {result.images / result.seconds:.1f} "
        f"images/s with the host's part; {cycles:.0f} cycles per image, "
        f"{1e3 * cycles / clock:.3f} ms at {clock / 1e6:g} MHz"
    )
    return {
        "text": text,
        "images": result.images,
        "seconds": result.seconds,
        "cycles_per_image": cycles,
    }


def classify(accelerator: Accelerator, args: argparse.Namespace) -> Dict[str, Any]:
    """Report of the ``classes`` and ``logits`` of the images in ``args.file``.

    The file is ``.npy``, (C, H, W) or (N, C, H, W). Raises DriverError for a file that cannot be
    read.
    """
    if args.file is None:
        raise DriverError("classify needs a file: python3 -m driver classify DIR IMAGE.npy")
    try:
        images = np.load(args.file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DriverError(f"cannot read {args.file}: {error}") from error
    answers = [accelerator.classify(image) for image in (images if images.ndim == 4 else [images])]
    return {
        "text": "\n".join(answer.name for answer in answers),
        "classes": [answer.name for answer in answers],
        "logits": [answer.result.logits.tolist() for answer in answers],
    }


def info(accelerator: Accelerator, args: argparse.Namespace) -> Dict[str, Any]:
    """Report of what is in the FPGA: ``shape`` of the array, and name of the ``network``."""
    shape, about = accelerator.registers.fields("SHAPE"), accelerator.package.accelerator
    text = "{}: {} rows x {} channels x {} pixels, {:g} MHz, network {}".format(
        about["title"],
        shape["rows"],
        shape["k"],
        shape["pixels"],
        about["clock_hz"] / 1e6,
        accelerator.package.name,
    )
    return {"text": text, "shape": shape, "network": accelerator.package.name}


COMMANDS = {
    "selftest": selftest,
    "throughput": throughput,
    "classify": classify,
    "info": info,
}


def main(argv: Optional[List[str]] = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.images is not None and args.images < 1:
            raise DriverError(f"--images must be at least 1, not {args.images}")
        if args.timeout <= 0:
            raise DriverError(f"--timeout must be positive, not {args.timeout:g}")
        way = args.folder, args.timeout, not args.loaded, args.port
        if args.command == "selftest" and Package.layers(args.folder):
            with connect_layers(*way) as layers:
                result = selftest_layers(layers, args)
        else:
            with connect(*way) as accelerator:
                result = COMMANDS[args.command](accelerator, args)
    except (DriverError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the run was aborted\n")
        return EXIT_INTERRUPTED
    text, status = result.pop("text"), result.pop("exit", 0)
    try:
        sys.stdout.write((json.dumps(result) if args.json else text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has gone (| head); the rest of the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__":
    sys.exit(main())

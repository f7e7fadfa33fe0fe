"""Make the embedded sample from the full set: python -m bptcnn.data.sample.make FASHION_MNIST_FOLDER

Takes the first 1000 training and the first 200 test images of each class, in the order of the source's files.
"""

from __future__ import annotations

import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bptcnn.data.embedded import CLASSES, FILE, SHA256, TEST, TRAIN
from bptcnn.data.loading import load
from bptcnn.data.samples import Samples
from bptcnn.errors import UserError


def first_of_each_class(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.intp]:
    """Indices of the first `count` samples of every class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(CLASSES)]))


def content_of(train: Samples, test: Samples) -> bytes:
    """What the sample's file holds, unpacked, when made from these full training and test sets."""
    train = train.take(first_of_each_class(train.labels, TRAIN // CLASSES))
    test = test.take(first_of_each_class(test.labels, TEST // CLASSES))
    images = train.images.tobytes() + test.images.tobytes()
    return images + train.labels.astype(np.uint8).tobytes() + test.labels.astype(np.uint8).tobytes()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    try:
        full = load(Path(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    content = content_of(full.train, full.test)
    target = Path(__file__).with_name(FILE)
    target.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    digest = hashlib.sha256(content).hexdigest()
    print(f"{target}: {target.stat().st_size} bytes, sha256 of the content {digest}")
    if digest != SHA256:
        print("bptcnn/data/embedded.py expects another content: set SHA256 there", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

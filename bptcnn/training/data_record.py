"""data.json: what a run was trained on, by content, so that it goes on with the same data wherever they lie now.

Older run folders have no such file: of their data only the number of training images is known, by the coordinator's
state, and what the network takes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from bptcnn.data import Dataset, Samples
from bptcnn.errors import UserError
from bptcnn.files import is_file, write_atomically
from bptcnn.training.run_folder import RunFolder
from bptcnn.untrusted import Between, Count, Length, Malformed, build, parse_json, printable, read_text

_Digest = Annotated[str, Length(64, 64)]
_Side = Annotated[int, Between(1, 2**31)]


@dataclass(frozen=True)
class PartRecord:
    """The training or the test set: how many images (height, width, channels), and the SHA-256 of their bytes."""

    images: Count
    shape: tuple[_Side, _Side, _Side]
    dtype: Literal["uint8", "float32"]
    images_sha256: _Digest
    labels_sha256: _Digest

    @classmethod
    def of(cls, samples: Samples) -> "PartRecord":
        """Look at all of it: about a second a gigabyte, or more on CPUs without instructions for it."""
        dtype: Any = str(samples.images.dtype)
        return cls(len(samples), samples.input_shape, dtype, _sha256(samples.images), _sha256(samples.labels))


@dataclass(frozen=True)
class DataRecord:
    """A data set by content."""

    classes: Annotated[int, Between(2, 2**31)]
    train: PartRecord
    test: PartRecord

    @classmethod
    def of(cls, dataset: Dataset) -> "DataRecord":
        """Look at all of it."""
        return cls(dataset.classes, PartRecord.of(dataset.train), PartRecord.of(dataset.test))

    def difference(self, now: "DataRecord") -> str | None:
        """Say how data differ `now` from what they were; None where they are the same."""
        for part, old, new in (("training", self.train, now.train), ("test", self.test, now.test)):
            if new.images != old.images:
                return f"they have {new.images:,} {part} images, not {old.images:,}"
            if (new.shape, new.dtype) != (old.shape, old.dtype):
                return f"their {part} images are {new.dtype} {new.shape}, not {old.dtype} {old.shape}"
        if now.classes != self.classes:
            return f"they have {now.classes} classes, not {self.classes}"
        for part, old, new in (("training", self.train, now.train), ("test", self.test, now.test)):
            for what in ("images", "labels"):
                if getattr(new, f"{what}_sha256") != getattr(old, f"{what}_sha256"):
                    return f"as many {part} {what}, but not the same or in another order"
        return None


def write_data_record(path: Path, record: DataRecord) -> None:
    """Write the file; raise UserError where that fails."""
    write_atomically(path, json.dumps(asdict(record), indent=1))


def read_data_record(path: Path) -> DataRecord | None:
    """Read it back, None where there is none; raise UserError where it cannot be read."""
    if not is_file(path):
        return None
    try:
        return build(DataRecord, parse_json(read_text(path, "record of the run's data")))
    except Malformed as error:
        raise UserError(f"cannot read {path}: {error}") from None


def require_same_data(folder: RunFolder, dataset: Dataset) -> bool:
    """Raise UserError, with the difference, where a run would go on with other data than it had.

    Return whether that is known: older folders do not say.
    """
    record = read_data_record(folder.data)
    difference = None if record is None else record.difference(DataRecord.of(dataset))
    if difference is not None:
        what = printable(dataset.source or dataset.name)
        remedy = "give DATA as it was, or start a new run from its weights with --init"
        raise UserError(f"{what} is not what {folder.path} was trained on: {difference}; {remedy}")
    return record is not None


def _sha256(array: npt.NDArray[Any]) -> str:
    """Of an array's bytes, little-endian as all that we run on."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()

"""Orders and splits drawn from a seed.

Drawn from the raw stream of PCG64, which NumPy keeps fixed, not through `Generator`, whose methods may change
between NumPy versions: a seed gives the same order on every host and after every upgrade.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bptcnn.data.samples import Samples
from bptcnn.errors import UserError

_ORDER, _SPLIT = 1, 2  # separate streams, so that a split says nothing about the order


def order(n: int, seed: int) -> npt.NDArray[np.int32]:
    """A permutation of 0 to n-1, int32, fixed by `seed` (0 or more, else UserError)."""
    return _permutation(n, seed, _ORDER)


def split_validation(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """(train, validation): `fraction` of the samples, drawn by `seed`, go to validation, alike from every class.

    Validation gets round(fraction * N) samples, at least 1 and at most N - 1, shared out over the classes by largest
    remainder (ties to the lower class), so no class is off its exact share by a whole sample. Both parts keep the
    samples' order. UserError if the fraction is not between 0 and 1 (both excluded) or there are fewer than 2 samples.
    """
    if not 0.0 < fraction < 1.0:
        raise UserError(f"validation fraction {fraction:g} is not between 0 and 1 (both excluded)")
    n = len(samples)
    if n < 2:
        raise UserError(f"{n} training sample(s) cannot be split into training and validation")
    total = min(max(round(n * fraction), 1), n - 1)
    _, classes, counts = np.unique(samples.labels, return_inverse=True, return_counts=True)
    shares, remainders = np.divmod(counts * total, n)
    missing = total - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:missing]] += 1

    drawn = _permutation(n, seed, _SPLIT)
    by_class = drawn[np.argsort(classes[drawn], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(n) - np.repeat(starts, counts)
    chosen = np.zeros(n, np.bool_)
    chosen[by_class[rank < np.repeat(shares, counts)]] = True
    return samples.take(np.flatnonzero(~chosen)), samples.take(np.flatnonzero(chosen))


def _permutation(n: int, seed: int, stream: int) -> npt.NDArray[np.int32]:
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give 0 or more")
    keys = np.random.PCG64(np.random.SeedSequence([stream, seed])).random_raw(n)
    return np.argsort(keys, kind="stable").astype(np.int32)

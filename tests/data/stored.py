"""Samples to store in a cache, and what is left in its folder."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bptcnn.data import SampleCache, Samples, digest


def some(n: int = 5, seed: int = 0, floats: bool = False) -> Samples:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 4, 3, 2), np.uint8)
    labels = random.integers(0, 10, n, np.int32)
    return Samples((images / 255).astype(np.float32) if floats else images, labels)


def described(samples: Samples) -> tuple[Any, ...]:
    return samples.images.dtype, samples.images.shape, samples.labels.dtype, samples.labels.shape


def store(cache: SampleCache, samples: Samples) -> str:
    name = digest(samples)
    with cache.writer(name, *described(samples)) as writer:
        writer.append(samples.images)
        writer.append(samples.labels)
    return name


def same(found: Samples | None, samples: Samples) -> bool:
    return (
        found is not None
        and found.images.dtype == samples.images.dtype
        and np.array_equal(found.images, samples.images)
        and np.array_equal(found.labels, samples.labels)
    )


def left(cache: SampleCache) -> list[str]:
    return sorted(os.listdir(cache.folder)) if cache.folder.is_dir() else []

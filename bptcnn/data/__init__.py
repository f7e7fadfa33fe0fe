"""Labelled images: readers of files, the embedded sample, class-balanced splits, the order of samples, their cache.

May import `bptcnn.errors`, the cache's modules and numpy; knows nothing of networks, nodes or training.
"""

from bptcnn.data.content import SampleCache, digest
from bptcnn.data.loading import load
from bptcnn.data.ordering import order, split_validation
from bptcnn.data.samples import Dataset, Samples, doubts

__all__ = ["Dataset", "SampleCache", "Samples", "digest", "doubts", "load", "order", "split_validation"]

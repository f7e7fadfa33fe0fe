"""Labelled images: readers of files, the embedded sample, class-balanced splits, the order of samples.

May import `bptcnn.errors` and numpy; knows nothing of networks, nodes or training.
"""

from bptcnn.data.loading import load
from bptcnn.data.ordering import order, split_validation
from bptcnn.data.samples import Dataset, Samples

__all__ = ["Dataset", "Samples", "load", "order", "split_validation"]

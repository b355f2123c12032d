"""Data sets of images: read from files, split, normalised, named by their content."""

from service.evaluation.datasets.dataset import Dataset, Split, make_dataset
from service.evaluation.datasets.loading import announce, load_dataset
from service.evaluation.datasets.raw import RawImages

__all__ = ["Dataset", "RawImages", "Split", "announce", "load_dataset", "make_dataset"]

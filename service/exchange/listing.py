"""Files that list architectures, read with the readers of imports: batches of genes, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from search_spaces.space import Genes, SearchSpace
from service.exchange.architectures import Architectures
from service.exchange.layout import Listing
from service.exchange.readers import read
from service.exchange.report import Errors
from service.wire.exchange import TableFormat


@dataclass(frozen=True, slots=True)
class Listed:
    """Rows of a file: (n, d) canonical genes, the first one being row ``first`` of the file, from 1."""

    first: int
    genes: Genes


def listed(space: SearchSpace, kind: TableFormat, file: IO[bytes], errors: Errors) -> Iterator[Listed]:
    """The architectures of a file, in its order: rows of ``config``, ``config.CHOICE``, ``genes`` or ``arch``.

    Rows that name none are noted in ``errors`` and have any genes. Raises `Invalid` where the rest cannot be read.
    """
    reader = Architectures(space)
    for batch in read(kind, file, Listing([choice.name for choice in space.choices])):
        good = np.ones(batch.count, dtype=bool)
        for index, (field, message) in batch.broken.items():
            good[index] = False
            errors.add(batch.first + index, field, message)

        def note(index: int, field: str, message: str, first: int = batch.first) -> None:
            errors.add(first + index, field, message)

        yield Listed(batch.first, reader.genes(batch, good, note))

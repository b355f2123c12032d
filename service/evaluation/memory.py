"""Memory that does not suffice: half the batch where that changes no result, an error of its own where it would.

A batch may be made smaller where images do not see one another: when a network in eval mode is judged, and when
proxies take the gradient of each image on its own. It may not where batch norm estimates statistics from the batch
(training, recalibration): the same seed would give another network, under the same context. Gradients added up over
parts of a batch would be no way out, as each part's statistics are its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, final

import structlog
import torch

from search_spaces.networks.memory import ran_out
from service.core.errors import OutOfMemory

Result = TypeVar("Result")

log = structlog.get_logger("frontier.evaluation")


def release() -> None:
    """Gives back what nothing refers to any more. To be called when the error, which holds the pass, is gone."""
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def fixed(device_name: str, doing: str) -> Iterator[None]:
    """Around work whose batch is part of its result: it is not tried again. Raises `OutOfMemory`."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(f"out of memory on {device_name} while {doing}: {_line(error)}") from error


@final
class Memory:
    """How many images at once one job's device has memory for.

    Attributes:
        batch: images at once that did, if those asked for did not; later work of the job begins with it.
    """

    def __init__(self, device_name: str, tell: Callable[[str], None]) -> None:
        """``tell`` is given a note for the job's progress; what it raises ends the job."""
        self.batch: int | None = None
        self._device_name, self._tell = device_name, tell

    def halving(self, doing: str, size: int, work: Callable[[int], Result]) -> Result:
        """``work`` with at most ``size`` images at once, from its beginning again with half as many if need be.

        Raises `OutOfMemory` if one image is too much.
        """
        size = min(size, self.batch or size)
        while True:
            try:
                return work(size)
            except Exception as error:
                if not ran_out(error):
                    raise
                if size <= 1:
                    raise OutOfMemory(
                        f"out of memory on {self._device_name} while {doing}, one image at a time: {_line(error)}"
                    ) from error
                reason = _line(error)
            release()
            size //= 2
            self.batch = size
            log.warning("out of memory, batch halved", device=self._device_name, doing=doing, batch=size, error=reason)
            self._tell(f"out of memory while {doing}: going on with {size} images at a time")


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:500]

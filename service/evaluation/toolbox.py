"""What a job handler works with: artifacts, data sets, a device, and a way to tell how far it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import torch

from search_spaces.space import SearchSpace
from search_spaces.supernets.checkpoint import load_weights
from search_spaces.supernets.supernet import Supernet
from service.core.errors import Invalid, Unavailable
from service.core.functions import Function
from service.evaluation.datasets import Dataset

_LOADED = 2
"""Super-networks kept in memory."""


class Report(Protocol):
    """Called by handlers, often; cheap. Raises `Stop` or `LeaseLost`, which end the job."""

    def __call__(
        self,
        done: float,
        total: float,
        note: str = "",
        metrics: Mapping[str, float] | None = None,
        checkpoint: bytes | None = None,
    ) -> None:
        """``done`` of ``total`` is finished; ``metrics`` so far; ``checkpoint`` is what a resumed job goes on from."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Files by their SHA-256: ``get`` raises `NotFound` or `Unavailable`, ``put`` returns the digest."""

    get: Callable[[str], Path]
    put: Callable[[bytes], str]


@final
class Toolbox:
    """What one worker has: evaluators of its own too, as functions by name. Of loaded super-networks the last used
    ones are kept."""

    def __init__(
        self,
        artifacts: Artifacts,
        datasets: Mapping[str, Dataset],
        device: torch.device | str = "cpu",
        *,
        device_name: str = "cpu",
        functions: Mapping[str, Function] | None = None,
    ) -> None:
        self.artifacts = artifacts
        self.datasets = dict(datasets)
        self.device = torch.device(device)
        self.device_name = device_name
        self.functions = dict(functions or {})
        self._supernets: OrderedDict[tuple[str, str], Supernet] = OrderedDict()

    def with_artifacts(self, artifacts: Artifacts) -> Toolbox:
        """The same data sets, device and functions, other artifacts."""
        return Toolbox(artifacts, self.datasets, self.device, device_name=self.device_name, functions=self.functions)

    def unload(self) -> None:
        """Forgets the super-networks in memory; they are loaded again when they are needed."""
        self._supernets.clear()

    @property
    def weights(self) -> list[str]:
        """Digests of the super-networks in memory."""
        return sorted({weights for _, weights in self._supernets})

    def dataset(self, name: str, digest: str) -> Dataset:
        """Raises `Unavailable` if this worker does not have it."""
        if digest not in self.datasets:
            held = ", ".join(f"{dataset.name} ({digest[:8]})" for digest, dataset in self.datasets.items()) or "none"
            raise Unavailable(f"this worker has no data set {name} with digest {digest[:8]}…; it has {held}")
        return self.datasets[digest]

    def supernet(self, space: SearchSpace, weights: str) -> Supernet:
        """The super-network of the space with these weights, on the device, in eval mode; not to be changed."""
        key = (space.digest, weights)
        if key not in self._supernets:
            data = self.artifacts.get(weights).read_bytes()
            supernet = space.supernet()
            try:
                load_weights(supernet, data)
            except ValueError as error:
                raise Invalid("weights", f"{weights[:8]}… are not a super-network's of this space: {error}") from error
            self._supernets[key] = supernet.to(self.device).eval()
            while len(self._supernets) > _LOADED:
                self._supernets.popitem(last=False)
        self._supernets.move_to_end(key)
        return self._supernets[key]

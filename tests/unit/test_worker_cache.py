"""The cache of artifacts, and what a device is called."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from service.evaluation.cache import ArtifactCache
from service.evaluation.devices import describe, processor, slug


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source:
    """Artifacts to fetch, and how often they were."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {digest_of(data): data for data in contents}
        self.fetched: list[str] = []

    def __call__(self, digest: str, path: Path) -> None:
        self.fetched.append(digest)
        path.write_bytes(self.contents[digest])


def test_a_file_is_fetched_once_even_by_two_workers(tmp_path: Path) -> None:
    source = Source(b"weights")
    for _ in range(2):
        cache = ArtifactCache(tmp_path, 100, source)
        assert cache.get(digest_of(b"weights")).read_bytes() == b"weights"
        assert cache.get(digest_of(b"weights")).read_bytes() == b"weights"
    assert len(source.fetched) == 1


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    source = Source(b"weights")
    digest = digest_of(b"weights")
    (tmp_path / digest).write_bytes(b"weightz")
    assert ArtifactCache(tmp_path, 100, source).get(digest).read_bytes() == b"weights"
    (tmp_path / digest).write_bytes(b"")
    assert ArtifactCache(tmp_path, 100, source).get(digest).read_bytes() == b"weights"
    assert len(source.fetched) == 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    contents = [bytes([number]) * 40 for number in range(4)]
    source = Source(*contents)
    cache = ArtifactCache(tmp_path, 100, source)
    first, second, third, _ = (digest_of(data) for data in contents)
    for age, digest in enumerate((first, second)):
        os.utime(cache.get(digest), ns=(age, age))
    cache.get(first)  # used again: now the second is the oldest
    cache.get(third)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first, third])


def test_one_file_may_be_larger_than_the_cache(tmp_path: Path) -> None:
    source = Source(b"x" * 500, b"y")
    cache = ArtifactCache(tmp_path, 100, source)
    cache.get(digest_of(b"y"))
    assert cache.get(digest_of(b"x" * 500)).stat().st_size == 500
    assert [path.name for path in tmp_path.iterdir()] == [digest_of(b"x" * 500)]


def test_what_was_made_here_is_not_fetched(tmp_path: Path) -> None:
    source = Source()
    cache = ArtifactCache(tmp_path, 100, source)
    digest = cache.put(b"made here")
    assert digest == digest_of(b"made here")
    assert cache.get(digest).read_bytes() == b"made here"
    assert not source.fetched
    assert [path.name for path in tmp_path.iterdir()] == [digest], "temporary files stay behind"


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 100, Source())
    with pytest.raises(KeyError):
        cache.get("0" * 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c"),
        ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13"),
        ("NVIDIA H200", "nvidia-h200"),
        ("", ""),
    ],
)
def test_devices_have_short_names(name: str, short: str) -> None:
    assert slug(name) == short


def test_a_processor_is_named_by_its_model(tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Processor\n\n")
    assert processor(facts) == "intel-xeon-f6m143"
    assert processor(tmp_path / "none")


def test_the_device_says_how_many_threads_it_uses() -> None:
    one, two = (describe(torch.device("cpu"), threads) for threads in (1, 2))
    assert one.name.startswith("cpu-")
    assert one.name.endswith("-1t")
    assert two.name.endswith("-2t")
    assert one.memory_mb > 0
    assert one.software["torch"] == torch.__version__

"""Memory that does not suffice: batches are halved where that changes nothing, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

from search_spaces.networks.memory import ran_out
from service.core.errors import OutOfMemory, Stop
from service.evaluation.datasets import Split, load_dataset
from service.evaluation.judging import judge
from service.evaluation.memory import Memory, fixed

CPU = torch.device("cpu")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Small(nn.Module):
    """A network on a device with memory for so many images; remembers how many it was given."""

    def __init__(self, images: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        self.images = images
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        if len(images) > self.images:
            raise FULL
        out: torch.Tensor = self.linear(images.flatten(1))
        return out


@pytest.fixture(scope="module")
def split() -> Split:
    return load_dataset("digits").splits["test"]


def test_a_judgement_does_not_depend_on_the_memory(split: Split) -> None:
    notes: list[str] = []
    plenty, scarce = Memory("gpu-a", notes.append), Memory("gpu-a", notes.append)
    expected = judge(Small(256), split, 8, CPU, 10, plenty)
    assert (plenty.batch, notes) == (None, [])
    network = Small(50)
    with capture_logs() as logs:
        found = judge(network, split, 8, CPU, 10, scarce)
    assert found.error == expected.error
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert scarce.batch == 32
    assert notes == [f"out of memory while judging: going on with {size} images at a time" for size in (128, 64, 32)]
    assert [(each["log_level"], each["batch"]) for each in logs] == [("warning", 128), ("warning", 64), ("warning", 32)]
    network.seen.clear()
    judge(network, split, 8, CPU, 10, scarce)
    assert max(network.seen) <= 32, "what did not fit was tried again"


def test_one_image_that_does_not_fit_ends_the_job(split: Split) -> None:
    with pytest.raises(OutOfMemory, match="out of memory on gpu-a while judging, one image at a time: CUDA out of"):
        judge(Small(0), split, 8, CPU, 10, Memory("gpu-a", lambda note: None))


def test_what_the_pass_held_is_let_go_before_the_next() -> None:
    import weakref

    held: list[weakref.ref[np.ndarray]] = []

    def work(size: int) -> int:
        assert all(each() is None for each in held), "the error still holds what the pass had made"
        made = np.zeros(size)
        held.append(weakref.ref(made))
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    assert Memory("gpu-a", lambda note: None).halving("working", 8, work) == 2
    assert len(held) == 3


def test_other_errors_are_not_about_memory() -> None:
    calls: list[int] = []

    def work(size: int) -> None:
        calls.append(size)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Memory("gpu-a", lambda note: None).halving("working", 8, work)
    assert calls == [8]


def test_a_cancelled_job_ends_between_two_tries() -> None:
    def stop(note: str) -> None:
        raise Stop("cancelled")

    def work(size: int) -> None:
        raise FULL

    with pytest.raises(Stop):
        Memory("gpu-a", stop).halving("working", 8, work)


def test_a_batch_that_is_part_of_the_result_is_kept() -> None:
    said = "on gpu-a while training with 64 images at once: CUDA out of memory"
    with pytest.raises(OutOfMemory, match=said), fixed("gpu-a", "training with 64 images at once"):
        raise FULL
    with pytest.raises(KeyError), fixed("gpu-a", "training"):
        raise KeyError


@pytest.mark.parametrize(
    ("error", "about_memory"),
    [
        (FULL, True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_errors_of_memory_are_known(error: Exception, about_memory: bool) -> None:
    assert ran_out(error) is about_memory


REAL = """
import resource
import torch
from torch import nn
from service.evaluation.datasets import load_dataset
from service.evaluation.judging import judge
from service.evaluation.memory import Memory

torch.set_num_threads(1)
split = load_dataset("digits").splits["test"]
torch.manual_seed(0)
# One image takes 4 MB behind the first layer and as much behind the second.
wide = nn.Sequential(nn.Conv2d(1, 256, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256 * 64 * 64, 10))
cpu = torch.device("cpu")
expected = judge(wide, split, 64, cpu, 10, Memory("cpu", print))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
memory = Memory("cpu", print)
found = judge(wide, split, 64, cpu, 10, memory)
assert abs(found.error - expected.error) < 1e-12, (found, expected)
print("batch", memory.batch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_processor_whose_memory_really_ends() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    notes = done.stdout
    assert "out of memory while judging: going on with" in notes
    assert 1 <= int(notes.rsplit("batch ", 1)[1]) < 32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_whose_memory_really_ends(split: Split) -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(1, 256, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256 * 64 * 64, 10)).to(device)
    expected = judge(wide, split, 64, device, 10, Memory("gpu", print))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 120 * 2**20) / total)
        memory = Memory("gpu", print)
        found = judge(wide, split, 64, device, 10, memory)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert memory.batch is not None
    assert found.error == pytest.approx(expected.error, abs=1 / len(split))

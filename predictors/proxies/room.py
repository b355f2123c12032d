"""How much memory is free: what bounds the images that pass at once."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CONTROL = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, control: Path = _CONTROL) -> int:
    """Memory of a device that a pass may take without taking it from another process.

    On a GPU, what torch holds and has no use for counts as free. On a CPU it is what the kernel could hand out without
    swapping, or what the container (``control``: its control group, version 2) has left if that is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (control / "memory.max").read_text(), int((control / "memory.current").read_text())
        held = dict(line.split() for line in (control / "memory.stat").read_text().splitlines())
    except OSError:
        return free
    # Pages of files that were read count as used, and are given up first.
    return free if limit.strip() == "max" else min(free, int(limit) - used + int(held["inactive_file"]))

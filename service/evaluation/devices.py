"""What a worker computes on, in words that keep latencies of different machines apart."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from service.wire.jobs import Device

_CPU_FACTS = Path("/proc/cpuinfo")
_EMPTY_WORDS = {"cpu", "processor", "core", "with", "radeon", "graphics", "r", "tm"}


def describe(device: torch.device, threads: int) -> Device:
    """Name, type, memory and software of a device; ``threads`` are the process's, and part of a processor's name."""
    software: dict[str, object] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        software["cuda"] = torch.version.cuda or ""
        memory_mb = facts.total_memory // 2**20
        return Device(name=f"cuda-{slug(facts.name)}", type="cuda", memory_mb=memory_mb, software=software)
    import psutil

    return Device(
        name=f"cpu-{processor()}-{threads}t",
        type=device.type,
        memory_mb=psutil.virtual_memory().total // 2**20,
        software=software,
    )


def processor(facts: Path = _CPU_FACTS) -> str:
    """The processor's model as one word. Clouds give many models one name: family and model number are added."""
    found: dict[str, str] = {}
    if facts.is_file():
        for line in facts.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    name = slug(found.get("model name", "")) or slug(platform.processor() or platform.machine()) or "unknown"
    family, model = found.get("cpu family"), found.get("model")
    return f"{name}-f{family}m{model}" if family and model else name


def slug(name: str) -> str:
    """Lower-case letters and digits, joined by '-', at most 48 characters; clock rates and empty words left out."""
    text = re.sub(r"@.*|\d+-core", " ", name.lower())
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word and word not in _EMPTY_WORDS]
    return "-".join(words)[:48].strip("-")

"""How fast a device is clocked at this moment, as far as it says. What cannot be read is left out, never guessed.

The kernel tells of processors under /sys, the driver of NVIDIA GPUs through its management library (NVML), which
every installation of the driver has. Nothing is set.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from service.wire.base import Json

_PROCESSORS = Path("/sys/devices/system/cpu")
_SM, _CORE = 1, 0
"""NVML's numbers of the clock of the multiprocessors, and of the sensor of the chip's temperature."""
_SLOWED_BY = {
    # nvmlClocksEventReasons, bit by bit
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}


def read_clocks(device: torch.device) -> Json:
    """The clock state now: of the processors this process may use, and of the GPU if ``device`` is one.

    Keys, each there if it could be read: ``governor`` (several joined by '+'), ``cpu_mhz`` (median), ``cpu_max_mhz``,
    ``load`` (processes that want to run, mean of one minute); ``gpu_sm_mhz``, ``gpu_sm_max_mhz``,
    ``gpu_temperature_c``, ``gpu_power_w``, ``gpu_power_state`` (0 is the fastest), ``gpu_slowed_by`` (a list).
    """
    found = processor_clocks(_usable())
    if device.type == "cuda":
        library = _nvml()
        if library is not None:
            found |= gpu_clocks(library, _uuid(device))
    return found


def processor_clocks(processors: Iterable[int], folder: Path = _PROCESSORS) -> Json:
    """Governor and clock rates of these processors by the kernel's files in ``folder``, and the machine's load."""
    frequencies = [folder / f"cpu{number}" / "cpufreq" for number in processors]
    governors = sorted({text for each in frequencies if (text := _text(each / "scaling_governor"))})
    current = [int(text) for each in frequencies if (text := _text(each / "scaling_cur_freq")).isdigit()]
    largest = [int(text) for each in frequencies if (text := _text(each / "cpuinfo_max_freq")).isdigit()]
    found: Json = {}
    if governors:
        found["governor"] = "+".join(governors)
    if current:
        found["cpu_mhz"] = round(median(current) / 1000)
    if largest:
        found["cpu_max_mhz"] = round(max(largest) / 1000)
    with suppress(OSError):
        found["load"] = round(os.getloadavg()[0], 2)
    return found


def gpu_clocks(library: Any, uuid: str) -> Json:
    """What NVML, loaded and initialised, says of the GPU ``GPU-uuid``; nothing if it does not know it."""
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
        return {}
    read = {
        "gpu_sm_mhz": _number(library, "nvmlDeviceGetClockInfo", handle, _SM),
        "gpu_sm_max_mhz": _number(library, "nvmlDeviceGetMaxClockInfo", handle, _SM),
        "gpu_temperature_c": _number(library, "nvmlDeviceGetTemperature", handle, _CORE),
        "gpu_power_state": _number(library, "nvmlDeviceGetPerformanceState", handle),
    }
    found: Json = {name: value for name, value in read.items() if value is not None}
    milliwatts = _number(library, "nvmlDeviceGetPowerUsage", handle)
    if milliwatts is not None:
        found["gpu_power_w"] = round(milliwatts / 1000, 1)
    reasons = _number(library, "nvmlDeviceGetCurrentClocksThrottleReasons", handle, kind=ctypes.c_ulonglong)
    if reasons is not None:
        found["gpu_slowed_by"] = [name for bit, name in _SLOWED_BY.items() if reasons & bit]
    return found


def _number(
    library: Any,
    function: str,
    handle: ctypes.c_void_p,
    *given: int,
    kind: type[ctypes.c_uint | ctypes.c_ulonglong] = ctypes.c_uint,
) -> int | None:
    """What a function of NVML writes behind its last argument; None if this driver or this GPU has no such thing."""
    found = kind()
    try:
        failed = getattr(library, function)(handle, *given, ctypes.byref(found))
    except AttributeError:
        return None
    return None if failed else int(found.value)


@lru_cache(maxsize=1)
def _nvml() -> Any | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _usable() -> Iterable[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""

"""What a process and its machine use: processor, memory, disk, network and GPUs, as numbers by name.

Read by the thread beside the training (`pulse`), about every 15 seconds; nothing is kept here but the counters of the reading
before, from which rates come. Names say the unit: `…_percent` (of one core for the process, which may use several; of all there
is for the rest), `…_bytes`, `…_bytes_per_s`, `…_celsius`, `…_watts`.

What holds: a figure that cannot be read is not there, and the others are. Processes started by this one, such as the workers of
a data loader, count with it, the first `TREE_MAX` of them. GPUs are asked through NVML where its Python package and a driver are
there. What is not promised: memory that processes share is counted in each of them, and a process that has come and gone
between two readings is not seen.
"""

from __future__ import annotations

import os
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import capture, forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TREE_MAX = 128
"""Processes that are measured, this one included."""
GPUS_MAX = 16
_PERCENT = 100.0


class Gauges:
    """The gauges of this process; not of a forked child, which makes its own.

    Args:
        warn: called with a sentence about what cannot be read on this machine; of GPUs nothing is said.

    Raises:
        ImportError: psutil is not installed.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        with forks.undivided():
            self._psutil: Any = import_module("psutil")
        self._warn = warn
        self._errors = (
            self._psutil.Error,
            OSError,
            ValueError,
            LookupError,
            ArithmeticError,
            AttributeError,
            TypeError,
            RuntimeError,
        )
        self._processes: dict[int, Any] = {os.getpid(): self._psutil.Process()}
        self._seen: dict[str, tuple[float, float]] = {}
        self._times: dict[int, float] = {}
        self._read_at = 0.0
        self._gpus: list[tuple[int, Any]] | None = None
        self._nvml: Any = None
        self.read(())

    def read(self, folders: Iterable[str]) -> dict[str, dict[str, float]]:
        """Figures by name as they are now, for each folder with those of its disk; rates since the reading before."""
        found: dict[str, float] = {}
        parts: tuple[tuple[str, Callable[[], Iterator[tuple[str, float]]]], ...] = (
            ("the process", self._process), ("processors", self._machine), ("memory", self._memory), ("load", _load),
            ("disks", self._disks), ("network", self._network), ("GPUs", self._gpu_figures),
        )  # fmt: skip
        for what, read in parts:
            found.update(self._part(what, read))
        return {folder: found | self._part(f"the disk of {folder}", partial(self._disk, folder)) for folder in folders}

    def _part(self, what: str, read: Callable[[], Iterator[tuple[str, float]]]) -> dict[str, float]:
        """Some of the figures; none, and a sentence, where they cannot be read."""
        try:
            return dict(read())
        except self._errors as problem:
            self._warn(f"{what} cannot be measured ({type(problem).__name__}: {problem}); training goes on")
            return {}

    # -- the process and the machine ---------------------------------------------------------------------------------

    def _process(self) -> Iterator[tuple[str, float]]:
        """Processor and memory of this process and all below it."""
        own = os.getpid()
        pids = [own, *_below(own, self._psutil)]
        busy = memory = 0.0
        now, known, before = time.monotonic(), self._times, self._read_at
        self._read_at, self._times = now, {}
        self._processes = {pid: self._processes.get(pid) for pid in pids[:TREE_MAX]}
        for pid in self._processes:
            try:
                process = self._processes[pid] = self._processes[pid] or self._psutil.Process(pid)
                times, used = process.cpu_times(), process.memory_info().rss
            except self._psutil.Error:  # it has ended meanwhile
                continue
            spent = times.user + times.system
            memory += used
            busy += max(0.0, spent - known.get(pid, 0.0 if before else spent))
            self._times[pid] = spent
        if before and now > before:
            yield "process/cpu_percent", round(_PERCENT * busy / (now - before), 1)
        yield "process/memory_bytes", int(memory)
        yield "process/count", len(pids)

    def _machine(self) -> Iterator[tuple[str, float]]:
        times = self._psutil.cpu_times()
        whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # these stand in user and nice too
        idle = times.idle + getattr(times, "iowait", 0.0)
        before = self._seen.get("machine")
        self._seen["machine"] = whole, idle
        if before is not None and whole > before[0]:
            share = 1 - (idle - before[1]) / (whole - before[0])
            yield "machine/cpu_percent", round(_PERCENT * min(1.0, max(0.0, share)), 1)

    def _memory(self) -> Iterator[tuple[str, float]]:
        memory = self._psutil.virtual_memory()
        yield "machine/memory_percent", float(memory.percent)
        yield "machine/memory_available_bytes", int(memory.available)

    def _disk(self, folder: str) -> Iterator[tuple[str, float]]:
        disk = self._psutil.disk_usage(folder)
        yield "disk/used_percent", float(disk.percent)
        yield "disk/free_bytes", int(disk.free)

    def _disks(self) -> Iterator[tuple[str, float]]:
        counters = self._psutil.disk_io_counters(nowrap=False)
        if counters is not None:  # a container may see none
            yield from self._rate("disk/read_bytes_per_s", counters.read_bytes)
            yield from self._rate("disk/write_bytes_per_s", counters.write_bytes)

    def _network(self) -> Iterator[tuple[str, float]]:
        counters = self._psutil.net_io_counters(nowrap=False)
        if counters is not None:
            yield from self._rate("network/received_bytes_per_s", counters.bytes_recv)
            yield from self._rate("network/sent_bytes_per_s", counters.bytes_sent)

    def _rate(self, name: str, count: float) -> Iterator[tuple[str, float]]:
        """A counter's growth a second since the reading before; one that began anew has none."""
        now = time.monotonic()
        before, known = self._seen.get(name, (now, count))
        self._seen[name] = now, count
        if now > before and count >= known:
            yield name, round((count - known) / (now - before))

    # -- GPUs --------------------------------------------------------------------------------------------------------

    def _gpu_figures(self) -> Iterator[tuple[str, float]]:
        for index, handle in self._handles():
            for name, read in _GPU.items():
                try:
                    yield f"gpu/{index}/{name}", read(self._nvml, handle)
                except self._gpu_errors():  # many cards do not tell everything
                    continue

    def _handles(self) -> list[tuple[int, Any]]:
        """(number, handle) of each GPU; a library that fails once is not asked again, since it needs a second to fail."""
        if self._gpus is None:
            self._gpus = []
            if capture.has_gpu_driver():
                try:
                    with forks.undivided():
                        self._nvml = import_module("pynvml")
                        self._nvml.nvmlInit()
                    count = min(self._nvml.nvmlDeviceGetCount(), GPUS_MAX)
                    self._gpus = [(index, self._nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
                except self._gpu_errors():
                    self._gpus = []
        return self._gpus

    def _gpu_errors(self) -> tuple[type[Exception], ...]:
        error = getattr(self._nvml, "NVMLError", None)
        own = (error,) if isinstance(error, type) and issubclass(error, Exception) else ()
        return (ImportError, *self._errors, *own)


def _load() -> Iterator[tuple[str, float]]:
    if hasattr(os, "getloadavg"):
        yield "machine/load_1min", round(os.getloadavg()[0], 2)


def _memory_share(nvml: Any, handle: Any) -> float:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return round(_PERCENT * float(memory.used / memory.total), 1)


_GPU: dict[str, Callable[[Any, Any], float]] = {
    "utilization_percent": lambda nvml, handle: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
    "memory_bytes": lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used),
    "memory_percent": _memory_share,
    "temperature_celsius": lambda nvml, handle: float(nvml.nvmlDeviceGetTemperature(handle, 0)),  # 0: the sensor on the chip
    "power_watts": lambda nvml, handle: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000, 1),
}


def _below(pid: int, psutil: Any) -> list[int]:
    """Processes that a process has started, and those that they have started.

    Linux keeps them for each thread, which is far cheaper than looking at every process of the machine, as psutil must.
    """
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # another system, or a kernel without that list
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < TREE_MAX:
        children = list(_children(waiting.pop()))
        found += children
        waiting += children
    return found


def _children(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/task"
    try:
        threads = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return
    for thread in threads:
        try:
            with open(f"{folder}/{thread}/children", "rb", buffering=0) as file:
                yield from map(int, file.read(1 << 16).split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue

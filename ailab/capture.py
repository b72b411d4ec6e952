"""What a run ran on: interpreter, packages, device, host, command; redacted.

Called by the recorder (on a background thread where it costs) and by the journal for the header of a segment. Nothing
here writes to disk, opens a connection or raises into training: what could not be read is a short sentence in
`problems`, and the rest is there all the same. Never in a result: environment variables outside `_VARIABLES`.

An `Environment` holds nothing that changes from run to run on one machine with the same packages (no times, no free
memory, no job ids), because its SHA-256 is its identity. torch is never asked for device names: that would open a device
context in the training process, or make the answer depend on what was imported before.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .errors import is_from_signal_handler
from .forks import undivided
from .redaction import plain_text, redact, redact_argv, sentence, valid_text, without_credentials, word_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

COMMAND_CHARACTERS = 64 * 1024

_T = TypeVar("_T")


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of the machine; None where the driver does not tell."""

    name: str
    memory_bytes: int | None = None
    driver: str | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as its operating system describes it; None where it does not tell."""

    system: str
    release: str
    machine: str
    cpu: str
    cores_physical: int | None = None
    cores_logical: int | None = None
    memory_bytes: int | None = None
    gpus: list[Gpu] = []


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Interpreter, packages, machine and the environment variables that change results. Stored once per content.

    `packages` are sorted lines as `pip freeze` writes them: `name==version`, `name @ url`, `-e path  # name==version`.
    """

    python_version: str
    implementation: str
    packages: list[str]
    device: Device
    host: str
    variables: dict[str, str] = {}
    problems: list[str] = []


# -- who and where -----------------------------------------------------------------------------------------------------


def host_name() -> str:
    """Return the name of this machine, or of this container."""
    if hasattr(os, "uname"):
        return valid_text(os.uname().nodename)
    import platform

    return valid_text(platform.node())


def user_name() -> str:
    """Return the login name of this process: from the environment, the user database, else `uid-NUMBER`.

    A container often runs under a number that no user database knows; that is not an error.
    """
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if os.environ.get(name):
            return valid_text(os.environ[name])
    try:
        import pwd  # not on Windows

        return valid_text(pwd.getpwuid(os.getuid()).pw_name)
    except (ImportError, LookupError, OSError) as problem:
        if is_from_signal_handler(problem):
            raise
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


@cache
def boot_id() -> str:
    """Return a text that is the same until this machine starts anew; empty where the system does not tell."""
    if sys.platform == "darwin":
        return _sysctl("kern.bootsessionuuid") or _sysctl("kern.boottime").partition("}")[0]
    try:
        return _head("/proc/sys/kernel/random/boot_id", 128).decode("ascii", "replace").strip()
    except OSError:
        return ""


def process_start(pid: int) -> float | None:
    """Return when the process started (Linux: clock ticks since boot; elsewhere: seconds since 1970).

    With the pid it names a process for as long as the machine runs. None when there is no such process; a zombie is
    none, because it will never write again, and neither is one that this user may not see.
    """
    if pid <= 0:
        return None
    if sys.platform != "linux":
        return _process_start_by_psutil(pid)
    try:
        stat = _head(f"/proc/{pid}/stat", 4096)
    except OSError as problem:
        if is_from_signal_handler(problem):  # a time limit of the caller's, which is a TimeoutError, is no answer
            raise
        return None
    # The second field is the name in brackets and may hold blanks and brackets itself; what follows is field 3 onwards.
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):  # noqa: PLR2004
        return None
    return float(fields[19])


def _process_start_by_psutil(pid: int) -> float | None:
    from importlib import import_module

    try:
        psutil = import_module("psutil")
    except ImportError:
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, OSError):
        return None


def command_line(argv: Sequence[str] | None = None) -> str:
    """Return the command as launched, quoted for a shell and redacted.

    Without `argv` it is `sys.orig_argv`, which has the interpreter, its options and `-m module`. In a child of
    multiprocessing or joblib that is only the call that starts the child, and `sys.argv`, copied from the parent, says more.
    """
    import shlex

    if argv is None:
        own = getattr(sys, "argv", [])
        child = any(arg == "--multiprocessing-fork" or "loky.backend.popen_loky" in arg for arg in sys.orig_argv)
        argv = own if child and own else sys.orig_argv or own
    command = shlex.join(redact_argv(argv))
    if len(command) > COMMAND_CHARACTERS:
        return f"{command[:COMMAND_CHARACTERS]} [cut: {len(command)} characters in all]"
    return command


# -- the environment ---------------------------------------------------------------------------------------------------

# Variables that change what a program computes or which devices it sees. Neither job ids nor lists of nodes: those change
# from run to run.
_VARIABLES = word_set("""
    ACCELERATE_MIXED_PRECISION BLIS_NUM_THREADS CONDA_DEFAULT_ENV CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER
    CUDA_LAUNCH_BLOCKING CUDA_VISIBLE_DEVICES FLAX_PROFILE GOTO_NUM_THREADS HF_DATASETS_OFFLINE HF_HUB_OFFLINE
    HIP_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION JAX_DEFAULT_MATMUL_PRECISION JAX_ENABLE_X64 JAX_PLATFORMS
    JAX_DISABLE_JIT KERAS_BACKEND KMP_AFFINITY KMP_BLOCKTIME LANG LC_ALL LD_PRELOAD LOCAL_RANK LOCAL_WORLD_SIZE
    MALLOC_CONF MKL_CBWR MKL_DYNAMIC MKL_NUM_THREADS MKL_THREADING_LAYER NCCL_ALGO NCCL_IB_DISABLE NCCL_P2P_DISABLE
    NCCL_PROTO NODE_RANK NPY_DISABLE_CPU_FEATURES NUMBA_DISABLE_JIT NUMBA_NUM_THREADS NUMEXPR_NUM_THREADS
    NVIDIA_TF32_OVERRIDE NVIDIA_VISIBLE_DEVICES OMP_DYNAMIC OMP_NUM_THREADS OMP_PLACES OMP_PROC_BIND
    OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS POLARS_MAX_THREADS PYTHONHASHSEED PYTHONOPTIMIZE PYTHONUTF8
    PYTORCH_CUDA_ALLOC_CONF PYTORCH_ENABLE_MPS_FALLBACK RANK RAYON_NUM_THREADS ROCR_VISIBLE_DEVICES
    SLURM_CPUS_PER_TASK SLURM_GPUS_ON_NODE SLURM_LOCALID SLURM_NNODES SLURM_NODEID SLURM_NTASKS
    SLURM_NTASKS_PER_NODE SLURM_PROCID TF_CUDNN_DETERMINISTIC TF_DETERMINISTIC_OPS TF_ENABLE_ONEDNN_OPTS
    TF_FORCE_GPU_ALLOW_GROWTH TF_GPU_ALLOCATOR TF_XLA_FLAGS TOKENIZERS_PARALLELISM TORCHDYNAMO_DISABLE
    TORCH_COMPILE_DISABLE TORCH_CUDNN_V8_API_DISABLED TORCH_CUDA_ARCH_LIST TRANSFORMERS_OFFLINE TZ
    VECLIB_MAXIMUM_THREADS VIRTUAL_ENV WORLD_SIZE XLA_FLAGS XLA_PYTHON_CLIENT_ALLOCATOR
    XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_PREALLOCATE
""")


class _Vcs(msgspec.Struct):
    vcs: str
    commit_id: str


class _Archive(msgspec.Struct):
    hash: str | None = None


class _Folder(msgspec.Struct):
    editable: bool = False


class _DirectUrl(msgspec.Struct):
    """`direct_url.json` of an installed package (PEP 610)."""

    url: str
    vcs_info: _Vcs | None = None
    archive_info: _Archive | None = None
    dir_info: _Folder | None = None
    subdirectory: str | None = None


def capture_environment() -> Environment:
    """Return what the current process runs on; takes some ten milliseconds, most of it reading package folders."""
    import platform

    problems: list[str] = []
    nothing: list[str] = []
    packages = _part(problems, "packages", lambda: _packages(sys.path, problems), nothing)
    device = Device(
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        cpu=_part(problems, "cpu", _cpu, ""),
        cores_physical=_part(problems, "cores", _physical_cores, None),
        cores_logical=os.cpu_count(),
        memory_bytes=_part(problems, "memory", _memory_bytes, None),
        gpus=_part(problems, "gpus", lambda: _gpus(problems), []),
    )
    return Environment(
        python_version=platform.python_version(),
        implementation=platform.python_implementation(),
        packages=packages,
        device=device,
        host=host_name(),
        variables=_variables(os.environ),
        problems=problems,
    )


def _part(problems: list[str], what: str, read: Callable[[], _T], otherwise: _T) -> _T:
    """Return what `read` returns; where that part cannot be read, say so in `problems` and go on."""
    try:
        return read()
    except (OSError, ValueError, ImportError, LookupError) as error:
        problems.append(sentence(f"{what}: {type(error).__name__}: {error}"))
        return otherwise


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: redact(valid_text(environment[name])) for name in sorted(_VARIABLES) if name in environment}


def _packages(folders: Iterable[str], problems: list[str]) -> list[str]:
    found: dict[str, str] = {}
    for folder in dict.fromkeys(os.fspath(folder) or os.curdir for folder in folders):
        here: dict[str, str] = {}
        for name, line in _distributions(folder, problems):
            if here.setdefault(_normal(name), line) != line:
                problems.append(sentence(f"packages: {name} is there twice in {folder}"))
        found = here | found
    return sorted(found.values(), key=lambda line: (line.casefold(), line))


def _normal(name: str) -> str:
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def _distributions(folder: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and line of each distribution in a folder (or zip file) of sys.path.

    Only the head of each METADATA is read: name and version stand in its first lines, the description behind them is
    long. `importlib.metadata` reads and parses all of it.
    """
    if os.path.isfile(folder):
        from importlib.metadata import distributions

        yield from ((dist.name, f"{dist.name}=={dist.version}") for dist in distributions(path=[folder]) if dist.name)
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:  # a folder of sys.path that is not there holds no packages
        return
    for entry in names:
        if entry.startswith(("~", "-")):  # what an interrupted pip leaves behind
            continue
        try:
            found = _distribution(os.path.join(folder, entry))
        except (OSError, ValueError) as error:
            problems.append(sentence(f"packages: {error}"))
            continue
        yield found


def _distribution(path: str) -> tuple[str, str]:
    file = os.path.join(path, "METADATA" if path.endswith(".dist-info") else "PKG-INFO")
    if path.endswith(".egg-info") and not os.path.isdir(path):
        file = path
    name, version = _name_and_version(_head(file, 2048))
    if not (name and version):
        name, version = _name_and_version(_head(file, 256 * 1024))
    if not (name and version):
        raise ValueError(f"no name and version in {file}")
    try:
        origin = msgspec.json.decode(_head(os.path.join(path, "direct_url.json"), 64 * 1024), type=_DirectUrl)
    except (FileNotFoundError, NotADirectoryError):
        return name, f"{name}=={version}"
    return name, _direct(name, version, origin)


def _name_and_version(head: bytes) -> tuple[str, str]:
    found = {b"name": "", b"version": ""}
    for line in head.split(b"\n"):
        if not line.strip():
            break
        key, _, value = line.partition(b":")
        if key.lower() in found and not found[key.lower()]:
            found[key.lower()] = value.decode("utf-8", "replace").strip()
    return found[b"name"], found[b"version"]


def _direct(name: str, version: str, origin: _DirectUrl) -> str:
    """Write a distribution that did not come from an index as `pip freeze` does, without credentials."""
    url = without_credentials(origin.url)
    if origin.dir_info is not None and origin.dir_info.editable:
        from urllib.parse import unquote

        place = unquote(url.removeprefix("file://")) if url.startswith("file://") else url
        return f"-e {valid_text(place)}  # {name}=={version}"
    if origin.vcs_info is not None:
        url = f"{origin.vcs_info.vcs}+{url}@{origin.vcs_info.commit_id}"
    checksum = origin.archive_info.hash if origin.archive_info else None
    fragments = [part for part in (checksum, origin.subdirectory and f"subdirectory={origin.subdirectory}") if part]
    return f"{name} @ {url}" + (f"#{'&'.join(fragments)}" if fragments else "")


def _cpu() -> str:
    import platform

    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    if sys.platform == "linux":
        # ARM kernels give no model name; the head suffices, the whole file takes long on machines with many cores.
        for line in _head("/proc/cpuinfo", 4096).decode("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return valid_text(platform.processor() if sys.platform == "win32" else platform.machine())


def _physical_cores() -> int | None:
    if sys.platform == "linux":
        cores = set()
        for number in range(os.cpu_count() or 0):
            topology = f"/sys/devices/system/cpu/cpu{number}/topology"
            try:
                cores.add((_head(f"{topology}/physical_package_id", 64), _head(f"{topology}/core_id", 64)))
            except OSError:  # a core that is switched off, or a system without this description
                continue
        return len(cores) or None
    from importlib import import_module

    count = import_module("psutil").cpu_count(logical=False)
    return count if isinstance(count, int) else None


def _memory_bytes() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    from importlib import import_module

    return int(import_module("psutil").virtual_memory().total)


_DRIVER_FILES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0")


def has_gpu_driver() -> bool:
    """Say whether this machine has a driver of NVIDIA's; without one nobody need be asked about GPUs."""
    return any(map(os.path.exists, _DRIVER_FILES))


def _gpus(problems: list[str]) -> list[Gpu]:
    """Ask NVIDIA's library where it is installed, else what the driver says under /proc (no memory sizes there)."""
    if not has_gpu_driver():
        return []
    from importlib import import_module

    try:
        with undivided():
            nvml = import_module("pynvml")
    except ImportError:
        return _gpus_of_driver("/proc/driver/nvidia/gpus", "/sys/module/nvidia/version")
    try:
        return _gpus_of_nvml(nvml)
    except nvml.NVMLError as error:
        problems.append(sentence(f"gpus: {error}"))
        return _gpus_of_driver("/proc/driver/nvidia/gpus", "/sys/module/nvidia/version")


def _gpus_of_nvml(nvml: Any) -> list[Gpu]:
    with undivided():
        nvml.nvmlInit()
    try:
        driver = plain_text(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [
            Gpu(
                name=plain_text(nvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver=driver,
            )
            for handle in handles
        ]
    finally:
        nvml.nvmlShutdown()


def _gpus_of_driver(folder: str, version_file: str) -> list[Gpu]:
    if not os.path.isdir(folder):
        return []
    driver = plain_text(_head(version_file, 64)).strip() if os.path.exists(version_file) else None
    gpus = []
    for slot in sorted(os.listdir(folder)):
        for line in plain_text(_head(os.path.join(folder, slot, "information"), 4096)).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                gpus.append(Gpu(name=value.strip(), driver=driver))
    return gpus


# -- texts and small files ---------------------------------------------------------------------------------------------


def _head(path: str, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


def _sysctl(name: str) -> str:
    """Ask macOS for one of its settings; empty where it does not know it."""
    import subprocess

    try:
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else ""

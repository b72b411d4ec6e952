"""The thread beside the training: figures of the machine, signs of life, and nothing that the training feels."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from recorded import lines_of, payloads, wait_for

import ailab
from ailab import capture, gauges, pulse, recorder
from ailab.store import Store

ALWAYS = {
    "process/cpu_percent", "process/memory_bytes", "process/count", "machine/cpu_percent", "machine/memory_percent",
    "machine/memory_available_bytes", "machine/load_1min", "disk/used_percent", "disk/free_bytes",
}  # fmt: skip
NVML = """
class NVMLError(Exception):
    pass

class Of:
    def __init__(self, **fields):
        self.__dict__.update(fields)

def nvmlInit():
    pass

def nvmlDeviceGetCount():
    return 2

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetUtilizationRates(handle):
    return Of(gpu=40 + handle)

def nvmlDeviceGetMemoryInfo(handle):
    return Of(used=3 << 30, total=12 << 30)

def nvmlDeviceGetTemperature(handle, sensor):
    return 60 + handle

def nvmlDeviceGetPowerUsage(handle):
    if handle == 1:
        raise NVMLError("Not Supported")
    return 123456
"""


@pytest.fixture
def fast(monkeypatch):
    """A second is five milliseconds."""
    monkeypatch.setattr(pulse, "TICK_SECONDS", 0.005)
    monkeypatch.setattr(pulse, "FIRST_SECONDS", 0.015)
    monkeypatch.setattr(pulse, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr(pulse, "LAST_SECONDS", 0.0)


def figures(run):
    """What a run's events say of the machine, in their order."""
    return [one["values"] for one in payloads(run, "system_metrics.logged")]


def measured(scripts, store_dir, body, *, gpu="", **env):
    """The figures of a run of a process whose body is `body`, where a sample is taken every tenth of a second."""
    scripts.run(f"""
        import os, sys, time, ailab
        from ailab import capture, pulse
        pulse.TICK_SECONDS, pulse.FIRST_SECONDS, pulse.SAMPLE_SECONDS, pulse.LAST_SECONDS = 0.02, 0.05, 0.1, 0.0
        if {bool(gpu)}:
            capture._DRIVER_FILES = (__file__,)
            sys.path.insert(0, os.getcwd())
            open("pynvml.py", "w").write({gpu!r})
        with ailab.start_run(id="r"):
            {body}
    """, **env)  # fmt: skip
    return figures(SimpleNamespace(id="r", store=Store(str(store_dir))))


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_what_the_process_does(scripts, store_dir):
    """It works at one core and holds a hundred megabytes, and so do its figures say."""
    found = measured(scripts, store_dir, "block = bytearray(100_000_000); end = time.time() + 1.0\n"
                     "            while time.time() < end: pass")  # fmt: skip
    assert len(found) >= 3
    assert set(found[0]) >= ALWAYS
    assert all(isinstance(value, int | float) for values in found for value in values.values())
    last = found[-2]
    assert last["process/memory_bytes"] > 100_000_000
    assert 10 < max(values["process/cpu_percent"] for values in found) < 250
    assert last["process/count"] == 1
    assert all(0 <= values[key] <= 100 for values in found for key in values if key.endswith("_percent") and "process" not in key)


def test_a_process_that_does_nothing_uses_nothing(scripts, store_dir):
    """The negative of the test before."""
    found = measured(scripts, store_dir, "time.sleep(1.0)")
    assert min(values["process/cpu_percent"] for values in found) < 50
    assert found[-1]["process/memory_bytes"] < 100_000_000


def test_children_and_theirs_count(scripts, store_dir):
    """Their memory, their processor, and how many they are; when they are gone, they are not counted."""
    found = measured(scripts, store_dir, """
            import subprocess
            code = "import time, os; x = bytearray(80_000_000); os.fork(); time.sleep(0.8)"
            children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
            [child.wait() for child in children]
            time.sleep(0.3)
    """)  # fmt: skip
    assert max(values["process/count"] for values in found) == 5
    assert max(values["process/memory_bytes"] for values in found) > 160_000_000
    assert found[-1]["process/count"] == 1


def test_the_tree_is_found_without_the_kernels_list(scripts, store_dir, monkeypatch):
    """On other systems psutil looks at every process."""
    import psutil

    child = scripts.start("import time; time.sleep(30)")
    assert child.pid in gauges._below(os.getpid(), psutil)
    before = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).endswith("/children") and before(path))
    assert child.pid in gauges._below(os.getpid(), psutil)


def test_many_children_are_bounded(monkeypatch):
    """All are counted, and some are measured."""
    warned = []
    there = gauges.Gauges(warned.append)
    monkeypatch.setattr(gauges, "_below", lambda _pid, _psutil: list(range(2**22 + 1, 2**22 + 1001)))
    (found,) = there.read([os.sep]).values()
    assert found["process/count"] == 1001
    assert len(there._processes) == gauges.TREE_MAX
    assert warned == []


def test_a_figure_that_cannot_be_read_costs_itself_alone(monkeypatch):
    """It is said, and the others are there."""
    warned = []
    there = gauges.Gauges(warned.append)
    monkeypatch.setattr(there._psutil, "virtual_memory", lambda: (_ for _ in ()).throw(PermissionError("no /proc/meminfo")))
    monkeypatch.setattr(there._psutil, "disk_io_counters", lambda **_: None)
    time.sleep(0.1)  # the machine counts its time in hundredths of a second
    (found,) = there.read([os.sep]).values()
    assert set(found) >= ALWAYS - {"machine/memory_percent", "machine/memory_available_bytes"}
    assert not [key for key in found if "memory_percent" in key or key.startswith("disk/read")]
    assert warned == ["memory cannot be measured (PermissionError: no /proc/meminfo); training goes on"]


def test_a_counter_that_begins_anew_has_no_rate(monkeypatch):
    there = gauges.Gauges(print)
    assert list(there._rate("x", 1000)) == []
    assert list(there._rate("x", 10)) == []
    time.sleep(0.01)
    ((name, value),) = there._rate("x", 20)
    assert (name, value > 0) == ("x", True)


# -- GPUs --------------------------------------------------------------------------------------------------------------


def test_gpus_are_asked_through_nvml(scripts, store_dir):
    """What a card does not tell is not there; everything else is."""
    (*_, last) = measured(scripts, store_dir, "time.sleep(0.5)", gpu=NVML)
    assert {key: value for key, value in last.items() if key.startswith("gpu")} == {
        "gpu/0/utilization_percent": 40.0, "gpu/0/memory_bytes": 3 << 30, "gpu/0/memory_percent": 25.0,
        "gpu/0/temperature_celsius": 60.0, "gpu/0/power_watts": 123.5, "gpu/1/utilization_percent": 41.0,
        "gpu/1/memory_bytes": 3 << 30, "gpu/1/memory_percent": 25.0, "gpu/1/temperature_celsius": 61.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        ("def nvmlInit():\n    pass", "def nvmlInit():\n    raise NVMLError('Driver Not Loaded')"),
        ("def nvmlInit():\n    pass", "def nvmlInit():\n    raise OSError('no library')"),
        ("return index", "raise NVMLError('Insufficient Permissions')"),
        ("class NVMLError(Exception):\n    pass", "raise ImportError('half installed')"),
        ("class NVMLError(Exception):\n    pass", "raise RuntimeError('broken')"),
        ("class NVMLError(Exception):", "NVMLError = 3\nclass Other(Exception):"),
    ],
)
def test_a_library_that_fails_costs_the_gpus_alone(scripts, store_dir, change):
    """Nothing is said, and nothing else is missing; the library as it is has figures, by the test before."""
    broken = NVML.replace(*change)
    assert broken != NVML
    found = measured(scripts, store_dir, "time.sleep(0.5)", gpu=broken)
    assert {key for values in found for key in values} >= ALWAYS


def test_without_a_driver_the_library_is_not_even_imported(monkeypatch):
    monkeypatch.setattr(capture, "_DRIVER_FILES", ("/nowhere",))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would fail
    assert gauges.Gauges(print)._handles() == []


# -- when, and to whom -------------------------------------------------------------------------------------------------


def test_every_open_run_gets_them_from_one_thread(store_dir, fast):
    """The same reading, and there is one thread however many runs."""
    first = ailab.start_run("a")
    second = ailab.start_run("b", nested=False)
    wait_for(lambda: len(figures(first)) > 3)
    assert [thread.name for thread in threading.enumerate()].count("ailab-pulse") == 1
    second.finish()
    first.finish()
    common = [values for values in figures(second) if values in figures(first)]
    assert len(common) >= 3


def test_a_run_that_ends_is_measured_once_more(store_dir, fast):
    with ailab.start_run() as run:
        wait_for(lambda: figures(run))
        before = len(figures(run))
        run.finish()
    kinds = [line.kind for line in lines_of(run)]
    assert len(figures(run)) > before
    assert kinds.index("run.finished") > max(i for i, kind in enumerate(kinds) if kind == "system_metrics.logged")


def test_a_short_run_is_quiet(store_dir):
    """Nobody wants to know what a machine did for a moment, in a process that has measured before either."""
    with ailab.start_run():
        recorder._pulse._begin_to_measure(time.monotonic())
        recorder._pulse._sample_at = 0.0
    with ailab.start_run() as run:
        run.log({"a": 1.0})
        recorder._pulse._take_turn([run])
    assert {line.kind for line in lines_of(run)} & {"system_metrics.logged", "heartbeat.sent", "console_lines.logged"} == set()


def test_switched_off_nothing_is_measured(store_dir, fast, monkeypatch):
    """AILAB_SYSTEM_METRICS=0, beside a run that has it on."""
    monkeypatch.setenv("AILAB_SYSTEM_METRICS", "0")
    off = ailab.start_run("off")
    monkeypatch.setenv("AILAB_SYSTEM_METRICS", "1")
    on = ailab.start_run("on", nested=False)
    wait_for(lambda: len(figures(on)) > 3)
    on.finish()
    off.finish()
    assert figures(off) == []


def test_nothing_is_loaded_by_the_call_that_starts_a_run(scripts, store_dir):
    """The package costs fifteen milliseconds, on the thread and after a while."""
    done = scripts.run("""
        import sys, ailab
        with ailab.start_run() as run:
            run.log({"a": 1.0})
            print(sorted({"psutil", "pynvml", "ailab.gauges"} & set(sys.modules)))
    """)
    assert done.stdout == "[]\n"


def test_without_psutil_it_is_said_once(scripts, store_dir):
    done = scripts.run("""
        import sys, time
        sys.modules["psutil"] = None
        import ailab
        from ailab import pulse
        pulse.TICK_SECONDS, pulse.FIRST_SECONDS, pulse.SAMPLE_SECONDS = 0.01, 0.02, 0.02
        with ailab.start_run() as run:
            time.sleep(0.3)
            run.log({"a": 1.0})
        print(run.status)
    """)
    assert done.stdout == "completed\n"
    assert done.stderr.count("the use of the machine is not recorded") == 1


def test_trouble_in_the_thread_is_said_and_ends_there(store_dir, fast, monkeypatch, capsys):
    """With `strict` too; the next piece of work is done all the same."""
    broken = threading.Event()

    def read(self, folders):
        broken.set()
        raise RuntimeError("a gauge fell off")

    run = ailab.start_run(strict=True)
    monkeypatch.setattr(gauges.Gauges, "read", read)
    assert broken.wait(20)
    monkeypatch.undo()
    wait_for(lambda: figures(run))
    run.finish()
    assert run.status == "completed"
    assert capsys.readouterr().err.count("a gauge fell off") == 1


def test_a_silent_writer_beats(store_dir, fast, monkeypatch):
    """As long as it says nothing itself."""
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.05)
    monkeypatch.setenv("AILAB_SYSTEM_METRICS", "0")
    run = ailab.start_run()
    recorder._pulse._beat_at = 0.0
    wait_for(lambda: len(payloads(run, "heartbeat.sent")) >= 2)
    run.finish()


def test_a_later_run_wakes_the_thread(store_dir, fast):
    """It sleeps without a timeout where no run is open."""
    ailab.start_run().finish()
    wait_for(lambda: recorder._pulse._idle)
    with ailab.start_run() as run:
        wait_for(lambda: figures(run))


def test_a_fork_does_not_wait_for_what_is_half_done(scripts, store_dir):
    """A driver that does not answer, for example: its reading ends behind the fork, and the child has nothing of it."""
    done = scripts.run("""
        import os, threading, ailab
        from ailab import recorder
        with ailab.start_run():
            held, forked = threading.Event(), threading.Event()
            def work():
                with recorder._pulse._work:
                    held.set()
                    forked.wait()
            threading.Thread(target=work).start()
            held.wait()
            if os.fork() == 0:
                print(recorder._pulse._work.acquire(blocking=False), flush=True)
                os._exit(0)
            os.wait()
            print(recorder._pulse._work.acquire(blocking=False))
            forked.set()
            print(recorder._pulse._work.acquire(timeout=10))
    """, PYTHONWARNINGS="ignore")  # fmt: skip
    assert done.stdout == "True\nFalse\nTrue\n"


def test_a_child_measures_itself(scripts, store_dir):
    """Its own run in its own process, with a thread of its own."""
    done = scripts.run("""
        import os, sys, time, ailab
        from ailab import pulse
        pulse.TICK_SECONDS, pulse.FIRST_SECONDS, pulse.SAMPLE_SECONDS = 0.01, 0.02, 0.02
        def seen(run):
            name, = run.store.segments_of_run(run.id)
            return "system_metrics.logged" in open(run.store.segment_path(name)).read()
        with ailab.start_run():
            time.sleep(0.3)
            if os.fork() == 0:
                with ailab.start_run(nested=False) as run:
                    time.sleep(0.5)
                print(seen(run), flush=True)
                os._exit(0)
            os.wait()
    """, PYTHONWARNINGS="ignore")  # fmt: skip
    assert done.stdout == "True\n"


def test_a_driver_that_hangs_does_not_keep_the_process(scripts, store_dir):
    """The thread is in it; the training, its end and the run's last line are not."""
    done = scripts.run("""
        import time, ailab
        from ailab import gauges, pulse
        pulse.TICK_SECONDS, pulse.FIRST_SECONDS = 0.01, 0.02
        gauges.Gauges.read = lambda self, folders: time.sleep(600)
        started = time.monotonic()
        with ailab.start_run() as run:
            time.sleep(0.3)
            print("printed meanwhile")
        print(run.status)
    """, timeout=30)  # fmt: skip
    assert done.stdout == "printed meanwhile\ncompleted\n"

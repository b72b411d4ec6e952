"""What a run prints: passed on unchanged, kept as a terminal would show it, bounded, redacted, and never in the way."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from recorded import payloads, wait_for

import ailab
from ailab import console, journal, recorder, runs, store


@pytest.fixture
def quick(monkeypatch):
    """Only `finish` writes: the thread beside the training does nothing, so that no test depends on when it looks."""
    from ailab import pulse

    monkeypatch.setattr(pulse.Pulse, "_take_turn", lambda *_: None)


def kept(run):
    """(stream, line) of every line that a run has kept."""
    return [(one["stream"], line) for one in payloads(run, "console_lines.logged") for line in one["lines"]]


def of_store(path):
    """Payloads of all console events of a store, as they lie in it."""
    there = store.Store(str(path))
    found = []
    for name in there.segment_names():
        found += [line.data for line in journal.scan(there.segment_path(name)) if line.kind == "console_lines.logged"]
    return [msgspec.json.decode(data, type=console.ConsoleLinesLogged) for data in found]


def shown(*texts, queue=None):
    """The rows that a terminal shows after these texts."""
    screen, rows = console._Screen("stdout"), [] if queue is None else queue
    for text in texts:
        screen.feed(text, rows)
    return [row.text for row in [*rows, *(row for row in screen.rows if not row.queued and row.text)]]


# -- a terminal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "rows"),
    [
        (["a\nb\n"], ["a", "b"]),
        (["a", "b", "\n", "\n"], ["ab", ""]),
        (["one\r\ntwo\r\n"], ["one", "two"]),
        (["100%\r 50%\n"], [" 50%"]),
        (["abcdef\rxy\n"], ["xycdef"]),
        (["abc\b\bX\n"], ["aXc"]),
        (["\x1b[31mred\x1b[0m\tplain\n"], ["red\tplain"]),
        (["long text\r\x1b[K", "short\n"], ["short"]),
        (["long text\x1b[2K\rshort\n"], ["short"]),
        (["abcdef\x1b[3D\x1b[1K\n"], ["   def"]),
        (["\x1b]0;title\x07text\n"], ["text"]),
        (["\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n"], ["link"]),
        (["a\x1b", "[3", "1mb\n"], ["ab"]),
        (["nul\x00 bell\x07 delete\x7f\n"], ["nul bell delete"]),
        (["\x1b]0;never ended", "\nnext\n"], ["0;never ended", "next"]),
        (["é ü 漢字 \u2028 x\n"], ["é ü 漢字 \u2028 x"]),
        (["outer 0\n inner 0\x1b[A\router 1\n inner 1\x1b[A\n\n"], ["outer 1", " inner 1"]),
        (["a\nb\n\x1b[2Ax\x1b[2By\n"], ["x", "b", " y"]),
    ],
)
def test_a_line_is_what_a_terminal_shows(texts, rows):
    """Overwritten characters are gone, moves within the last rows are followed, sequences that show nothing leave nothing."""
    assert shown(*texts) == rows


def test_a_text_that_is_no_sequence_is_not_held_back():
    """A sequence that is begun and never ended costs its first two characters, not the output behind it."""
    assert shown("\x1b]" + "x" * 1000, "y\n") == ["x" * 1000 + "y"]


def test_bars_below_each_other_are_a_line_each(store_dir, quick):
    """As tqdm draws them: the inner bar a line down, and up again."""
    with ailab.start_run() as run:
        for outer in range(50):
            sys.stderr.write(f"\router {outer}")
            for inner in range(50):
                sys.stderr.write("\n")
                sys.stderr.write(f"\rinner {inner}")
                sys.stderr.write("\x1b[A")
        sys.stderr.write("\n\n")
    assert kept(run) == [("stderr", "outer 49"), ("stderr", "inner 49")]


def test_a_progress_bar_is_one_line(store_dir, quick):
    """Ten thousand states of it, of which the last one stays."""
    with ailab.start_run() as run:
        for i in range(10_000):
            sys.stderr.write(f"\r{i + 1:5d}/10000")
        sys.stderr.write("\n")
    assert kept(run) == [("stderr", "10000/10000")]
    assert len(payloads(run, "console_lines.logged")) == 1


def test_a_bar_in_the_making_does_not_leave_a_line_a_second(store_dir, monkeypatch):
    """The thread looks at it many times, and keeps only what no update can reach any more."""
    from ailab import pulse

    monkeypatch.setattr(pulse, "TICK_SECONDS", 0.01)
    with ailab.start_run() as run:
        for i in range(60):
            sys.stderr.write(f"\r{i}\n\rinner {i}\x1b[A")
            time.sleep(0.005)
        sys.stderr.write("\n\nafter\n")
    lines = [line for _, line in kept(run)]
    assert lines[-3:] == ["59", "inner 59", "after"]
    assert len(lines) <= 6


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_lines_of_both_streams_keep_their_order(store_dir, quick):
    """As they were printed, also the last one, which has no newline."""
    with ailab.start_run() as run:
        print("one")
        print("two", file=sys.stderr)
        print("three")
        print("four", end="")
    assert kept(run) == [("stdout", "one"), ("stderr", "two"), ("stdout", "three"), ("stdout", "four")]


def test_what_is_printed_outside_of_a_run_is_not_kept(store_dir, quick):
    print("before")
    with ailab.start_run() as run:
        print("within")
    print("after")
    assert kept(run) == [("stdout", "within")]


def test_switched_off_nothing_is_touched(store_dir, monkeypatch):
    """AILAB_CONSOLE=0; the same run with it on has the line, so the check can fail."""
    monkeypatch.setenv("AILAB_CONSOLE", "0")
    before = sys.stdout.write
    with ailab.start_run() as run:
        assert sys.stdout.write == before
        print("line")
    assert kept(run) == []
    monkeypatch.setenv("AILAB_CONSOLE", "1")
    with ailab.start_run() as run:
        assert sys.stdout.write != before
        print("line")
    assert kept(run) == [("stdout", "line")]


def test_a_run_without_console_in_a_process_with_one_keeps_nothing(store_dir, quick, monkeypatch):
    """And what is printed in its context is not taken for the other run's."""
    with ailab.start_run() as heard:
        monkeypatch.setenv("AILAB_CONSOLE", "0")
        with ailab.start_run() as deaf:
            print("of the deaf one")
        print("of the other one")
    assert (kept(deaf), kept(heard)) == ([], [("stdout", "of the other one")])


def test_disabled_touches_nothing(store_dir):
    before = sys.stdout.write
    with ailab.start_run(mode="disabled"):
        assert sys.stdout.write == before
    assert not os.path.exists(store_dir)


def test_secrets_are_redacted_before_the_first_byte(store_dir, quick, monkeypatch):
    """By name, by shape, by the environment; also a key that is printed line by line, and one where a line is cut."""
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    token = "hf_" + "a1B2" * 8
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 2] * 3)
    with ailab.start_run() as run:
        print("password: hunter2hunter2")
        print("the key is correct-horse-battery indeed")
        print(f"x{'-' * (console.LINE_CHARACTERS - 20)} {token}")
        print(f"x{'-' * (console._ROW_CHARACTERS - 20)} {token}")
        print(f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nharmless")
    raw = b"".join(Path(run.store.segment_path(name)).read_bytes() for name in run.store.segments_of_run(run.id))
    for secret in (b"hunter2", b"correct-horse", token[:12].encode(), b"MIIEvQ"):
        assert secret not in raw
    lines = [line for _, line in kept(run)]
    assert lines[0] == "password: [redacted]"
    assert lines[1] == "the key is [redacted] indeed"
    assert lines[-1] == "harmless"


def test_a_key_over_two_seconds_is_redacted(store_dir):
    """Its lines came in two pieces of work; what follows the key is kept."""
    roll = console.Roll(None)
    roll.show("stdout", 1, "-----BEGIN RSA PRIVATE KEY-----\n" + "A1b2" * 16 + "\n")
    first = [line for event in roll.events() for line in event.lines]
    roll.show("stdout", 1, "C3d4" * 16 + "\n")
    roll.show("stdout", 1, "-----END RSA PRIVATE KEY-----\nafter\n")
    second = [line for event in roll.events() for line in event.lines]
    roll.show("stdout", 1, "E5f6" * 16 + "\n")
    third = [line for event in roll.events(end=True) for line in event.lines]
    assert first == ["-----BEGIN RSA PRIVATE KEY-----", "[redacted]"]
    assert second == ["[redacted]", "-----END RSA PRIVATE KEY-----", "after"]
    assert third == ["E5f6" * 16]


def test_a_long_line_is_cut_and_says_so(store_dir, quick):
    with ailab.start_run() as run:
        print("a" * console.LINE_CHARACTERS)
        print("b" * 100_000)
    (_, whole), (_, cut) = kept(run)
    assert whole == "a" * console.LINE_CHARACTERS
    assert len(cut) == console.LINE_CHARACTERS
    assert cut.endswith("b [cut: 100000 characters in all]")


def test_the_rate_is_bounded_and_what_is_left_out_is_counted(store_dir, quick):
    """The last lines stay, the count stands before them, and one stream does not cost the other its lines."""
    with ailab.start_run() as run:
        for i in range(console.BURST_LINES + 2000):
            print(i)
        print("error", file=sys.stderr)
    found = payloads(run, "console_lines.logged")
    lines = [line for one in found if one["stream"] == "stdout" for line in one["lines"]]
    dropped = sum(one.get("dropped", 0) for one in found)
    assert len(lines) + dropped == console.BURST_LINES + 2000
    assert dropped >= 2000
    assert found[0].get("dropped") == dropped
    assert lines == [str(i) for i in range(dropped, console.BURST_LINES + 2000)]
    assert kept(run)[-1] == ("stderr", "error")


def test_beyond_its_budget_a_run_keeps_its_last_lines(store_dir, quick, monkeypatch):
    monkeypatch.setattr(console, "RUN_CHARACTERS", 100)
    with ailab.start_run() as run:
        for i in range(1000):
            print(f"line {i:04}")
    found = payloads(run, "console_lines.logged")
    lines = [line for one in found for line in one["lines"]]
    assert lines == [f"line {i:04}" for i in (*range(10), *range(900, 1000))]
    assert sum(one.get("dropped", 0) for one in found) == 890


def test_a_burst_is_kept_whole(scripts, store_dir):
    """Thousands of lines in a moment, as many as may wait: nothing is left out, however late the reader comes."""
    scripts.run("""
        import ailab
        with ailab.start_run():
            for i in range(3000):
                print(f"line {i} of 3000")
    """)
    found = of_store(store_dir)
    assert sum(event.dropped for event in found) == 0
    assert [line for event in found for line in event.lines] == [f"line {i} of 3000" for i in range(3000)]


def test_what_is_left_out_last_is_told_without_a_line():
    """Nothing follows it, so an event without lines says how many."""
    roll = console.Roll(None)
    roll.leave_out("stderr", 7)
    (event,) = roll.events(end=True)
    assert (event.stream, event.lines, event.dropped) == ("stderr", [], 7)


def test_an_event_has_at_most_so_many_lines(store_dir, quick):
    with ailab.start_run() as run:
        for i in range(250):
            print(i)
    assert [len(one["lines"]) for one in payloads(run, "console_lines.logged")] == [100, 100, 50]


def test_a_million_lines_cost_no_memory_and_all_are_kept_or_counted(scripts, store_dir):
    """Printed as fast as can be: the process stays small, and each line is in the record or in a count."""
    done = scripts.run("""
        import resource, sys, ailab
        small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ailab.start_run() as run:
            for i in range(1_000_000):
                sys.stdout.write("line %d\\n" % i)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - small, file=sys.stderr)
    """, timeout=120)  # fmt: skip
    assert done.stdout == "".join(f"line {i}\n" for i in range(1_000_000))
    found = of_store(store_dir)
    lines = [line for event in found for line in event.lines]
    assert len(lines) + sum(event.dropped for event in found) == 1_000_000
    assert lines[-1] == "line 999999"
    assert all(re.fullmatch(r"line \d+", line) for line in lines)
    assert int(done.stderr) < 100_000  # KiB


def test_one_text_that_is_too_long_keeps_its_end(store_dir, quick):
    """And the line that its beginning was cut from is counted, not shown in part."""
    with ailab.start_run() as run:
        sys.stdout.write("".join(f"line {i}\n" for i in range(300_000)))
    found = payloads(run, "console_lines.logged")
    lines = [line for one in found for line in one["lines"]]
    assert lines[-1] == "line 299999"
    assert len(lines) + sum(one.get("dropped", 0) for one in found) == 300_000


# -- streams -----------------------------------------------------------------------------------------------------------


def test_the_stream_stays_what_it_was(scripts, store_dir):
    """The same object, type, encoding, descriptor and buffer; what is printed comes out unchanged, `write` gives its count."""
    done = scripts.run("""
        import sys, ailab
        before = sys.stdout, type(sys.stdout), sys.stdout.encoding, sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.buffer
        with ailab.start_run():
            after = sys.stdout, type(sys.stdout), sys.stdout.encoding, sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.buffer
            assert before == after
            assert sys.stdout.write("\\x1b[31mfünf\\r\\n\\x1b[0m") == 15
            sys.stdout.writelines(["a", "b\\n"])
            try:
                sys.stdout.write(b"bytes")
            except TypeError as problem:
                print(problem)
            assert "write" in vars(sys.stdout)
        assert "write" not in vars(sys.stdout) and "write" not in vars(sys.stderr)
    """, PYTHONIOENCODING="utf-8")  # fmt: skip
    assert done.stdout == "\x1b[31mfünf\r\n\x1b[0mab\nwrite() argument must be str, not bytes\n".replace("\r\n", "\n")
    (event,) = of_store(store_dir)
    assert event.lines == ["fünf", "ab", "write() argument must be str, not bytes"]


def test_what_is_redirected_elsewhere_is_not_the_console(store_dir, quick):
    """It came back in a string and never reached the terminal; what goes to the other stream is that one's."""
    with ailab.start_run() as run:
        with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
            print("elsewhere")
        with contextlib.redirect_stdout(sys.stderr):
            print("on stderr")
        print("here")
    assert elsewhere.getvalue() == "elsewhere\n"
    assert kept(run) == [("stderr", "on stderr"), ("stdout", "here")]


def test_a_stream_that_writes_to_another_one_is_heard_once(store_dir, quick, monkeypatch):
    """Whether it was put there before the run, or in its midst."""

    class Twice:
        def __init__(self, stream):
            self.stream, self.copy = stream, []

        def write(self, text):
            self.copy.append(text)
            return self.stream.write(text)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    monkeypatch.setattr(sys, "stdout", Twice(sys.stdout))
    with ailab.start_run() as run:
        print("outer")
        monkeypatch.setattr(sys, "stdout", Twice(sys.stdout))
        print("outermost")
        with ailab.start_run() as second:
            print("of the second run")
    assert sys.stdout.copy == ["outermost", "\n", "of the second run", "\n"]
    assert kept(run) == [("stdout", "outer"), ("stdout", "outermost")]
    assert kept(second) == [("stdout", "of the second run")]


def test_a_new_stream_on_the_same_descriptor_is_followed(scripts, store_dir):
    """As where a script makes its output UTF-8 or unbuffered after the run has begun; a file of its own is not."""
    scripts.run("""
        import io, os, sys, time, ailab
        from ailab import pulse
        pulse.TICK_SECONDS = 0.02
        with ailab.start_run():
            sys.stdout = io.TextIOWrapper(os.fdopen(sys.stdout.fileno(), "wb", 0, closefd=False), write_through=True)
            time.sleep(0.5)
            print("followed")
            with open("own.txt", "w") as sys.stderr:
                time.sleep(0.5)
                print("not followed", file=sys.stderr)
            sys.stderr = sys.__stderr__
    """)
    assert [line for event in of_store(store_dir) for line in event.lines] == ["followed"]


def test_somebody_over_us_is_left_in_place(store_dir, quick, monkeypatch):
    """Another tool that has wrapped `write` meanwhile keeps its wrapper, and ours passes on and notes nothing."""
    before = sys.stdout
    with ailab.start_run() as run:
        inner = sys.stdout.write
        seen = []
        monkeypatch.setattr(sys.stdout, "write", lambda text: (seen.append(text), inner(text))[1])
        print("one")
        over = sys.stdout.write
    assert sys.stdout is before
    assert sys.stdout.write is over
    print("two")
    with ailab.start_run() as second:
        print("three")
    assert seen == ["one", "\n", "two", "\n", "three", "\n"]
    assert (kept(run), kept(second)) == ([("stdout", "one")], [("stdout", "three")])


def test_a_handler_made_before_the_run_is_heard(store_dir, quick):
    """It holds the stream, not its name."""
    handler = logging.StreamHandler(sys.stderr)
    with ailab.start_run() as run:
        handler.emit(logging.LogRecord("x", logging.INFO, "", 1, "from a logger", None, None))
    assert kept(run) == [("stderr", "from a logger")]


def test_a_stream_that_cannot_be_wrapped_is_said_and_left(store_dir, quick, monkeypatch, capsys):
    class Closed:
        __slots__ = ()

        def write(self, text):
            return len(text)

    monkeypatch.setattr(sys, "stdout", Closed())
    with ailab.start_run() as run:
        print("lost", file=sys.stdout)
    assert "what is printed on stdout is not kept" in capsys.readouterr().err
    assert [line for stream, line in kept(run) if stream == "stdout"] == []


def test_no_stream_at_all_is_fine(store_dir, quick, monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr(sys, "stdout", None)
    with ailab.start_run() as run:
        print("nowhere")
    assert kept(run) == []


def test_an_error_of_the_stream_is_the_callers(store_dir, quick, monkeypatch):
    """It goes up as it is, and the text that was not written is not kept."""

    class Broken(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError(32, "nobody reads")

    monkeypatch.setattr(sys, "stdout", Broken())
    with ailab.start_run() as run, pytest.raises(BrokenPipeError):
        print("lost")
    assert kept(run) == []


def test_our_own_trouble_is_not_the_callers(store_dir, quick, monkeypatch):
    """Where even a line cannot be noted, printing goes on, and the line is counted."""
    with ailab.start_run() as run:

        def no_memory():
            raise MemoryError

        monkeypatch.setattr(recorder._pulse._tee, "_make_room", no_memory)
        monkeypatch.setattr(recorder._pulse._tee, "_full", 0)
        sys.stdout.write("text\n")
        monkeypatch.undo()
    assert sum(one.get("dropped", 0) for one in payloads(run, "console_lines.logged")) == 1


def test_our_own_warnings_do_not_go_round_in_circles(store_dir, quick, monkeypatch, capsys):
    """A line that cannot be written makes a warning, which is a line that cannot be written."""
    with ailab.start_run() as run:
        print("first")
        writer = run._writer

        def full(event, **more):
            runs.say("the disk is full")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "append", full)
        for _ in range(3):
            print("more")
            recorder._pulse._tee.drain()
        monkeypatch.undo()
    assert capsys.readouterr().err.count("the disk is full") <= 8


# -- whose line --------------------------------------------------------------------------------------------------------


def test_a_line_goes_to_the_run_of_its_thread(store_dir, quick):
    """Each thread has a run of its own; a thread without one prints for the newest that is open."""

    def train(name, gate, found):
        with ailab.start_run(name) as run:
            found[name] = run
            gate.wait()
            for i in range(100):
                print(f"{name} {i}")
            gate.wait()

    gate, found = threading.Barrier(3), {}
    threads = [threading.Thread(target=train, args=(name, gate, found)) for name in "ab"]
    for thread in threads:
        thread.start()
    gate.wait()
    bare = threading.Thread(target=print, args=("whose",))
    bare.start()
    bare.join()
    gate.wait()
    for thread in threads:
        thread.join()
    a, b = kept(found["a"]), kept(found["b"])
    assert [line for line in a if line != ("stdout", "whose")] == [("stdout", f"a {i}") for i in range(100)]
    assert [line for line in b if line != ("stdout", "whose")] == [("stdout", f"b {i}") for i in range(100)]
    assert (a + b).count(("stdout", "whose")) == 1


def test_lines_of_threads_are_not_mixed(store_dir, quick):
    """A line that one thread prints in pieces stays whole, whatever another prints meanwhile."""
    with ailab.start_run() as run:
        sys.stdout.write("begun ")
        other = threading.Thread(target=print, args=("other",))
        other.start()
        other.join()
        sys.stdout.write("ended\n")
    assert kept(run) == [("stdout", "other"), ("stdout", "begun ended")]


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_killed_process_has_what_it_printed_a_second_before(scripts, store_dir):
    """And the file reads without fault."""
    process = scripts.start("""
        import ailab, time
        run = ailab.start_run()
        print("first", flush=True)
        time.sleep(60)
    """)
    wait_for(lambda: os.path.isdir(store_dir) and [event.lines for event in of_store(store_dir)])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [event.lines for event in of_store(store_dir)] == [["first"]]


@pytest.mark.parametrize("ending", ["signal", "exception", "exit", "open"])
def test_the_last_lines_are_there_however_a_script_ends(scripts, store_dir, ending):
    code = {
        "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "exception": "raise ValueError('no')",
        "exit": "import sys; sys.exit(3)",
        "open": "pass",
    }[ending]
    source = f"import ailab\nrun = ailab.start_run()\nprint('last words', flush=True)\n{code}\n"
    done = scripts.run(source, code=None)
    assert done.stdout == "last words\n"
    assert of_store(store_dir)[0].lines == ["last words"]
    assert "ailab" not in done.stderr.replace("import ailab", "")


def test_a_forked_child_prints_and_is_not_heard(scripts, store_dir):
    """Its own run is; no line comes twice, none of the parent's is told by the child, and nobody waits for ever."""
    done = scripts.run("""
        import os, sys, ailab
        with ailab.start_run("parent"):
            print("before", end="")
            sys.stdout.flush()
            if os.fork() == 0:
                print(" child", flush=True)
                with ailab.start_run("child", nested=False):
                    print("own", flush=True)
                os._exit(0)
            os.wait()
            print(" after")
    """)
    assert done.stdout == "before child\nown\n after\n"
    assert sorted(event.lines for event in of_store(store_dir)) == [["before after"], ["own"]]


FORKS = """
    import os, signal, sys, threading, time, ailab
    from ailab import pulse, recorder
    pulse.TICK_SECONDS, pulse.FIRST_SECONDS, pulse.SAMPLE_SECONDS = 0.001, 0.0, 0.002
    stop, hung, printing = False, 0, threading.Event()
    def talk():
        while not stop:
            printing.wait()
            print("token: 1234567890abcdef", file=sys.stderr)
            time.sleep(0.0001)
    with ailab.start_run() as run:
        threads = [threading.Thread(target=talk) for _ in range(2)]
        for thread in threads:
            thread.start()
        run._captured.join()
        if os.environ.get("KEEP_LOCKS"):
            pulse.Pulse.forked = lambda self: None
        drains = recorder._pulse._tee._draining
        for _ in range(int(sys.argv[1])):
            printing.set()
            while drains.acquire(blocking=False):  # until the other thread has it
                drains.release()
                time.sleep(0.0001)
            child = os.fork()
            if child == 0:
                signal.alarm(int(sys.argv[2]))  # kills the child if it hangs
                with ailab.start_run(nested=False) as own:
                    own._captured.join()
                    print("password: of the child 12345678")
                os._exit(0)
            printing.clear()
            hung += os.waitpid(child, 0)[1] != 0
        stop = True
        printing.set()
        for thread in threads:
            thread.join()
    print(hung)
"""


def test_forks_while_threads_print_do_not_hang(scripts, store_dir):
    """Each child is forked in the midst of the work beside the training, or just behind it, and runs one of its own."""
    assert scripts.run(FORKS, 10, 20, PYTHONWARNINGS="ignore").stdout.splitlines()[-1] == "0"


def test_control_children_that_keep_the_locks_of_a_thread_that_is_not_there_hang(scripts, store_dir):
    """Negative control: forked in the midst of that thread's work, a child waits for it for ever."""
    done = scripts.run(FORKS, 3, 2, KEEP_LOCKS="1", PYTHONWARNINGS="ignore")
    assert int(done.stdout.splitlines()[-1]) > 0


@pytest.mark.parametrize("moment", ["before", "behind"])
def test_a_child_forked_while_a_stream_begins_to_be_heard_is_heard_once(scripts, store_dir, moment):
    """Whether the stream's `write` is ours by then or not."""
    scripts.run(f"""
        import io, os, sys, threading, ailab
        begun, forked = threading.Event(), threading.Event()
        class Stream(io.StringIO):
            def __setattr__(self, name, value):
                if "{moment}" == "behind":
                    super().__setattr__(name, value)
                if not begun.is_set():
                    begun.set()
                    forked.wait()
                if "{moment}" == "before":
                    super().__setattr__(name, value)
        with ailab.start_run("first"):
            sys.stdout = Stream()
            other = threading.Thread(target=ailab.start_run, args=("second",))
            other.start()
            begun.wait()
            child = os.fork()
            if child == 0:
                with ailab.start_run("third", nested=False):
                    print("of the child")
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            forked.set()
            other.join()
            print("of the parent")
    """)  # fmt: skip
    assert sorted(event.lines for event in of_store(store_dir)) == [["of the child"], ["of the parent"]]


def test_a_script_ends_at_once(scripts, store_dir):
    """The thread beside it does not keep it, and says nothing at its end; many times, since it is a race."""
    for _ in range(5):
        done = scripts.run("""
            import ailab, time
            from ailab import pulse
            pulse.TICK_SECONDS, pulse.FIRST_SECONDS, pulse.SAMPLE_SECONDS = 0.001, 0.0, 0.0
            run = ailab.start_run()
            print("x")
            time.sleep(0.2)
        """)
        assert (done.stdout, done.stderr) == ("x\n", "")

"""Work in a forked child: its answer, its errors, and that this process stays as it was."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.child_process import describe_end
from fxgrad.errors import OutputError, TargetError, UsageError
from fxgrad.observe.accelerator.backend import emulate
from fxgrad.observe.accelerator.device import NAME
from fxgrad.observe.accelerator.forked import in_forked_child
from fxgrad.observe.accelerator.transfer import fake_copy, move_module
from tests.support.needs import needs_emulation
from tests.support.processes import has_ended, wait_until


def test_the_text_comes_back_unchanged():
    text = "line\r\n\0 é 🙂 \ud800"
    assert in_forked_child(lambda: text) == text


def test_a_large_text_comes_back_whole():
    assert len(in_forked_child(lambda: "x" * 100_000_000)) == 100_000_000


@needs_emulation
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")
def test_a_live_model_with_closures_is_traced_and_stays_as_it_was():
    model, input, received = nn.LSTMCell(10, 10), torch.randn(9, 10), []
    model.register_backward_hook(lambda module, grad_input, grad_output: received.append(len(grad_input)))
    model(input)[0].sum().backward()
    random_state, weight, grad = torch.get_rng_state(), model.weight_ih, model.weight_ih.grad.clone()

    def work():
        with emulate("cuda") as device:
            memo = {}
            move_module(model, device, memo=memo)
            received.clear()
            hidden, _ = model(fake_copy(input, device, memo=memo))
            hidden.sum().backward()
            return json.dumps([hidden.grad_fn.name(), received])

    assert json.loads(in_forked_child(work)) == ["ThnnFusedLstmCellBackward0", [5]]
    assert received == [2]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.weight_ih is weight
    assert torch.equal(model.weight_ih.grad, grad)
    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
    model(input)[0].sum().backward()
    assert received == [2, 2]


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the entries of /proc/self/fd")
def test_twenty_forks_leak_no_file_and_leave_no_zombie():
    before = open_files()
    for _ in range(20):
        in_forked_child(lambda: "x")
    assert open_files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the entries of /proc/self/fd")
def test_failing_forks_leak_no_file_either():
    before = open_files()
    for _ in range(3):
        with pytest.raises(TargetError):
            in_forked_child(fail)
    assert open_files() == before


def fail():
    raise ValueError("a mistake of the user")


def test_an_error_in_the_child_is_a_target_error_with_the_traceback_of_the_child():
    with pytest.raises(TargetError) as caught:
        in_forked_child(fail)
    assert caught.value.given == "ValueError: a mistake of the user"
    assert 'raise ValueError("a mistake of the user")' in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", [UsageError, TargetError, OutputError])
def test_an_error_of_fxgrad_keeps_its_kind_and_its_three_parts(kind):
    def work():
        raise kind("given", "allowed", "suggestion")

    with pytest.raises(kind) as caught:
        in_forked_child(work)
    assert (caught.value.given, caught.value.allowed, caught.value.suggestion) == ("given", "allowed", "suggestion")


def test_a_child_that_calls_exit_is_told_from_one_that_answers():
    with pytest.raises(TargetError, match=r"the target exited the interpreter: SystemExit\(3\)"):
        in_forked_child(lambda: sys.exit(3))


def test_a_child_that_ends_at_once_is_told_by_its_status():
    with pytest.raises(TargetError, match="the forked child ended with exit status 5 before it had a result"):
        in_forked_child(lambda: os._exit(5))


def test_a_child_that_is_killed_is_told_by_the_signal():
    with pytest.raises(TargetError, match="the forked child was killed by SIGKILL"):
        in_forked_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_that_takes_too_long_is_killed():
    with pytest.raises(TargetError, match="the traced model takes too long"):
        in_forked_child(lambda: time.sleep(60), timeout=0.2)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_an_interrupt_here_kills_and_collects_the_child():
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_forked_child(lambda: time.sleep(60))
    finally:
        signal.signal(signal.SIGALRM, previous)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_the_child_leaves_behind_does_not_hold_up_the_answer():
    def work():
        left_behind = os.fork()
        if left_behind == 0:
            time.sleep(60)
            os._exit(0)
        return str(left_behind)

    left_behind = in_forked_child(work)
    os.kill(int(left_behind), signal.SIGKILL)  # raises where the process is gone


STREAMS = """
import atexit, sys
from fxgrad.observe.accelerator.forked import in_forked_child
atexit.register(print, "at exit")
print("before", end=" ")
in_forked_child(lambda: print("inside", end=" ") or "")
print("after")
"""


def test_what_is_printed_is_written_once_and_nothing_runs_at_exit_in_the_child():
    done = subprocess.run([sys.executable, "-c", STREAMS], capture_output=True, text=True, check=True)
    assert done.stdout == "before inside after\nat exit\n"


def test_finalizers_of_this_process_do_not_run_in_the_child(capfd):
    parent = os.getpid()

    class Kept:
        def __del__(self):
            if os.getpid() != parent:
                os.write(2, b"finalized in the child\n")

    cycle = [Kept()]
    cycle.append(cycle)
    del cycle
    in_forked_child(lambda: str([[] for _ in range(100_000)]))
    assert "finalized in the child" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.delattr(os, "fork"), "cannot fork"),
        (lambda patch: patch.setattr(sys, "platform", "darwin"), "on macOS"),
        (
            lambda patch: patch.setattr(torch.cuda, "is_initialized", lambda: True),
            "CUDA is initialised in this process",
        ),
    ],
)
def test_where_forking_is_not_safe_the_reason_is_given(monkeypatch, change, reason):
    change(monkeypatch)
    with pytest.raises(UsageError, match=reason) as caught:
        in_forked_child(lambda: "")
    assert "use it as a TARGET" in caught.value.suggestion


def test_python_does_not_warn_of_threads():
    import threading

    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert in_forked_child(lambda: "answer") == "answer"
    finally:
        done.set()
        thread.join()


def test_an_answer_that_cannot_be_collected_is_still_an_answer():
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert in_forked_child(lambda: "answer") == "answer"
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_the_end_of_a_child_that_nobody_saw_is_told_as_such():
    assert describe_end(None) == "ended without a result"


def test_a_crash_is_told_with_its_line():
    with pytest.raises(TargetError, match=r"was killed by SIGSEGV at \S*test_forked.py:\d+, in <lambda>\n") as error:
        in_forked_child(lambda: ctypes.string_at(0))
    assert error.value.given.startswith("the forked child was killed by SIGSEGV")


WAITS = """
import os, sys, time
from fxgrad.observe.accelerator.forked import in_forked_child

def work():
    with open(sys.argv[1] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(sys.argv[1] + ".part", sys.argv[1])
    time.sleep(60)

in_forked_child(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_child_ends_with_its_parent(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path / "pid")])
    while not (tmp_path / "pid").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: has_ended(child))


@needs_emulation
def test_the_records_call_the_emulated_device_what_the_user_calls_it():
    trace = fxgrad.trace(nn.LSTMCell(4, 4), torch.randn(2, 4), device="cuda")
    assert "device=cuda:0" in trace.to_json()
    assert NAME not in trace.to_json()

"""A process tree as vLLM's, with all that makes it hard to clear; run as `python tree.py [option…]`.

Its processes: the first one, a tracker, VLLM::EngineCore and under it VLLM::Worker, which has a process group of its own, and
one that left the session. Shared memory and a semaphore are named as Python names them. Prints `tree PID PID …` when it is up.

deaf           ignores SIGTERM
second-term    ends at the second SIGTERM only
writes=PATH    writes `ended` there when SIGTERM ends it
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

PR_SET_NAME = 15


def title(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def report(pipe: Any) -> None:
    pipe.send(os.getpid())


def sleep(name: str, pipe: Any, leave: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    title(name)
    if leave == "group":
        os.setpgid(0, 0)
    elif leave == "session":
        os.setsid()
    report(pipe)
    time.sleep(600)


def core(pipe: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    title("VLLM::EngineCore")
    context = multiprocessing.get_context("fork")
    memory = shared_memory.SharedMemory(create=True, size=4096)
    memory.buf[0] = 1
    for name, leave in (("VLLM::Worker", "group"), ("runaway", "session")):
        context.Process(target=sleep, args=(name, pipe, leave)).start()
    pipe.send(memory.name)
    report(pipe)
    time.sleep(600)


def main(options: list[str]) -> None:
    terms = []

    def on_term(number: int, frame: Any) -> None:
        terms.append(number)
        if "deaf" in options or ("second-term" in options and len(terms) < 2):
            return
        for option in options:
            if option.startswith("writes="):
                Path(option.removeprefix("writes=")).write_text("ended")
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    context.Process(target=core, args=(there,)).start()
    told = [here.recv() for _ in range(4)]
    # spawn's semaphores keep their names until the resource tracker unlinks them, as vLLM's do
    lock = multiprocessing.get_context("spawn").Lock()
    pids = [os.getpid(), *(one for one in told if isinstance(one, int))]
    name = next(one for one in told if isinstance(one, str))
    print(f"tree {lock._semlock.name} {name}", *pids, flush=True)
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1:])

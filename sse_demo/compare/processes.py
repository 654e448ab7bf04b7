"""Servers that are started here: each is waited for until it answers, and ends with us."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

START_TIMEOUT = 30.0  # seconds; a busy machine needs several for Django's imports
STOP_TIMEOUT = 5.0  # seconds
_PR_SET_PDEATHSIG = 1  # prctl(2)


class ServerFailed(Exception):
    """A server did not start; the text is what it printed."""


def free_port() -> int:
    """Of 127.0.0.1; free until somebody takes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run(
    arguments: Sequence[str], log: Path, answers: Callable[[], bool], **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the context ends. `answers` finds out whether it does; an OSError means not yet.

    `options` are those of Popen. Raises ServerFailed.
    """
    with log.open("wb") as output:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603  our own arguments, with no shell between
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop the servers ourselves, once their numbers are read
            preexec_fn=_end_with_parent,
            **options,
        )
    try:
        _await(process, answers, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # workers that a killed master has left behind
            os.killpg(process.pid, signal.SIGKILL)


def _await(process: "subprocess.Popen[bytes]", answers: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError):
            if answers():
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"The server did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)  # nothing tells when it listens but trying


def _end_with_parent() -> None:
    """To run in a new child: the kernel ends it when we are killed and cannot. Only Linux knows such a thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

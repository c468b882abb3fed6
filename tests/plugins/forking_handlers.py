"""An echo plugin whose handlers fork: Echo is told which signal to send to the child.

Replies with how the child ended, as multiprocessing has it: negative for a signal.
"""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin

# Since 3.12 for any fork of a process that has threads.
warnings.simplefilter("ignore", DeprecationWarning)
context = multiprocessing.get_context("fork")


def wait(started):
    started.set()
    time.sleep(3600)


def with_process(number):
    """Use multiprocessing from the event loop's own thread or another."""
    started = context.Event()
    child = context.Process(target=wait, args=(started,))
    child.start()
    started.wait()
    if number == signal.SIGTERM:
        child.terminate()
    else:
        os.kill(child.pid, number)
    child.join(10)
    code = child.exitcode
    child.kill()
    return code


def with_fork(number):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"x")
        time.sleep(3600)
        os._exit(0)
    os.read(reading, 1)
    os.kill(pid, number)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


class Forking(EchoServiceServicer):
    async def Echo(self, message):
        how, where, number = message.message.split()
        fork = {"process": with_process, "fork": with_fork}[how]
        if where == "thread":
            code = await trio.to_thread.run_sync(fork, int(number))
        else:
            code = fork(int(number))
        return EchoReply(message=str(code), pid=os.getpid())


if __name__ == "__main__":
    plugin.run(Forking())

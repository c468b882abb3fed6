"""A plugin of the soak: `python plugin.py KIND`.

The echo service, in which `Slow` notes in the file COUNTED that it was executed, and `Echo` does
what messages ask that begin with "!" (see `Misbehaviors`). KIND is a function below. While there
is a file `MODES/reflection` or `MODES/metrics`, reflection or metrics are answered as its content
says.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3] / "examples" / "echo-plugin")]
import purerpc
import trio
from echo.v1 import echo_pb2
from echo.v1.echo_pb2 import EchoReply
from echo_plugin import EchoServicer
from google.protobuf import descriptor_pb2

from meshtrio import plugin
from meshtrio.messages import metrics, reflection_v1
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor

COUNTED = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
MODES = Path(os.environ["MODES"])
SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)"]
REFUSED_ONE_IN = 10


def reply(message):
    return EchoReply(message=message, pid=os.getpid())


class Misbehaviors:
    """What a plugin does on request; each ends after some seconds."""

    def flood(self, seconds):
        """Empty lines, as fast as they are read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(1, b"\n" * 65536)

    def garble(self, seconds):
        """Binary and hostile lines, as fast as they are read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(1, b"\x1b]52;c;Zm9v\x07\xff\xfe" + bytes(range(128, 256)) * 100 + b"\n")
            os.write(2, b'{"level": "error", "message": "\\u001b[2J"}\n')
            time.sleep(0.001)

    def burn(self, seconds):
        """CPU time in a thread of its own, which holds the interpreter's lock half of the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    def take_descriptors(self, seconds):
        """All that there are."""
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            time.sleep(seconds)
        finally:
            for descriptor in taken:
                os.close(descriptor)

    def name_child(self, seconds):
        """A child of a name that is not UTF-8 and looks like the rest of its entry in /proc."""
        program = (
            "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) R 1 \\xc3', 0, 0, 0); "
            f"time.sleep({seconds})"
        )
        subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)

    def have_children(self, seconds):
        """Children in the group and outside of it."""
        children = [subprocess.Popen(SLEEPER, start_new_session=n % 2 == 0) for n in range(4)]
        time.sleep(seconds)
        for child in children:
            child.kill()
            child.wait()

    def stand_still(self, seconds):
        """Hold the event loop."""
        trio.from_thread.run_sync(time.sleep, seconds, trio_token=self.token)

    def exit(self, seconds):
        """Exit with binary stderr."""
        os.write(2, (bytes(range(128, 256)) * 60 + b"\n") * 50)
        os._exit(7)


class SoakServicer(EchoServicer):
    def __init__(self):
        self.vices = Misbehaviors()

    async def Echo(self, request):
        if request.message.startswith("!"):
            name, seconds = request.message[1:].split()
            self.vices.token = trio.lowlevel.current_trio_token()
            vice = getattr(self.vices, name)
            threading.Thread(target=vice, args=(float(seconds),), daemon=True).start()
        return reply(request.message)

    async def Slow(self, request):
        os.write(COUNTED, request.message.encode() + b"\n")
        await trio.sleep(request.seconds)
        return reply(request.message)


class Flaky(SoakServicer):
    """Refuses the first attempts of some calls of Echo."""

    async def Echo(self, message, request):
        metadata = dict(request.custom_metadata)
        if random.randrange(REFUSED_ONE_IN) == 0 and "grpc-previous-rpc-attempts" not in metadata:
            raise purerpc.UnavailableError("not now")
        return await super().Echo(message)


# -- what it tells of itself -----------------------------------------------------------------


def mode(name):
    try:
        return (MODES / name).read_text()
    except OSError:
        return ""


class Reflecting:
    """Reflection, as the mode says: cyclic, not-utf8, huge, endless names, an error, or right."""

    def __init__(self):
        services = reflection_v1.DESCRIPTOR.services_by_name
        self.service = service_from_descriptor(services["ServerReflection"], self)

    async def ServerReflectionInfo(self, requests):
        async for request in requests:
            now = mode("reflection")
            if now == "error":
                raise purerpc.InternalError("no reflection today \x1b[2J")
            answer = reflection_v1.ServerReflectionResponse(original_request=request)
            if request.WhichOneof("message_request") == "list_services":
                for name in self.services(now):
                    answer.list_services_response.service.add(name=name)
            else:
                answer.file_descriptor_response.file_descriptor_proto.extend(self.files(now))
            yield answer

    def services(self, now):
        claimed = {"claiming": ["meshtrio.v1.Control", "grpc.health.v1.Health"]}.get(now, [])
        many = [f"many.S{number}" for number in range(20_000)] if now == "many" else []
        return ["echo.v1.EchoService", f"odd.{now.title()}", *claimed, *many]

    def files(self, now):
        right = echo_pb2.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto(name="odd.proto", package="odd", syntax="proto3")
        if now == "cyclic":
            file.dependency.append("odd.proto")
        elif now == "not-utf8":
            # A dependency (field 3) whose name no descriptor of ours could be given.
            return [file.SerializeToString() + b"\x1a\x03a\xff\xfe", right]
        elif now == "huge":
            for number in range(4000):
                message = file.message_type.add(name=f"M{number}")
                for field in range(20):
                    message.field.add(name=f"field_{field}", number=field + 1, type=9, label=1)
        elif now == "garbage":
            return [b"\xff" * 1000, right]
        return [file.SerializeToString(), right]


class Measuring:
    """Metrics, as the mode says: families without number, reserved and clashing names, NaN."""

    def __init__(self):
        self.service = service_from_descriptor(metrics.DESCRIPTOR.services_by_name["Metrics"], self)

    async def Collect(self, request):
        now = mode("metrics")
        if now == "many":
            return self.answer(*(self.family(f"many.metric{n}", 1.0) for n in range(9000)))
        if now == "hostile":
            return self.answer(
                self.family("up", float("nan")),
                self.family("meshtrio.plugin.restarts", 1.0, plugin="echo"),
                self.family("soak.nan", float("nan")),
                self.family("soak.reserved", 1.0, __name__="x", le="1", plugin="echo"),
                self.family("9 odd name \xff", -1.0, **{"grpc.method": "a\nb", "grpc_method": "c"}),
                self.family("soak.twice", 1.0),
                self.family("soak.twice", 2.0),
            )
        return self.answer(self.family("soak.right", 1.0))

    def answer(self, *families):
        return metrics.CollectMetricsResponse(families=families)

    def family(self, name, value, **labels):
        pairs = [metrics.MetricLabel(name=key, value=text) for key, text in labels.items()]
        return metrics.MetricFamily(
            name=name,
            kind=metrics.METRIC_KIND_COUNTER,
            points=[metrics.MetricPoint(labels=pairs, value=value)],
        )


# -- kinds -----------------------------------------------------------------------------------


def plain():
    plugin.run(SoakServicer())


def slow():
    time.sleep(2)
    plugin.run(SoakServicer())


def flaky():
    plugin.run(Flaky())


def family():
    for number in range(2):
        subprocess.Popen(SLEEPER, start_new_session=number == 1)
    plugin.run(SoakServicer())


def noisy():
    threading.Thread(target=chatter, daemon=True).start()
    plugin.run(SoakServicer(), Reflecting(), Measuring())


def chatter():
    number = 0
    while True:
        number += 1
        os.write(1, b"line %d \x1b[31m\xff\n" % number)
        os.write(2, b'{"level": "debug", "message": "line %d"}\n' % number)
        time.sleep(0.02)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    globals()[sys.argv[1]]()

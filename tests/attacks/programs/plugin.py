"""The plugins of attacks: `python plugin.py KIND`. Imports nothing of `tests`, see the package.

KIND is a function below. Those that misbehave wait for the file that ATTACK_GO names.
"""

import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer
from google.protobuf import descriptor_pb2

from meshtrio import plugin
from meshtrio.messages import metrics, reflection_v1
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor

FAMILIES = 9000
REFLECTED = 4_000_000
LINES = 300


def echo():
    plugin.run(EchoServicer())


def run_when_triggered(function):
    """Run a function in a thread of its own, again and again while there is the file."""

    def wait():
        while True:
            if os.path.exists(os.environ["ATTACK_GO"]):
                function()
            else:
                time.sleep(0.02)

    threading.Thread(target=wait, daemon=True).start()


def flooding():
    lines = b"\n" * 65536
    run_when_triggered(lambda: os.write(1, lines))
    echo()


def exiting():
    def fall():
        line = bytes(range(128, 256)) * 64
        for _ in range(LINES):
            os.write(2, line + b"\n")
        os._exit(3)

    run_when_triggered(fall)
    echo()


class Reflecting:
    """Answers every question with a file of 4 MB."""

    def __init__(self):
        services = reflection_v1.DESCRIPTOR.services_by_name
        self.service = service_from_descriptor(services["ServerReflection"], self)
        self._files = [huge_file()]

    async def ServerReflectionInfo(self, requests):
        async for request in requests:
            reply = reflection_v1.ServerReflectionResponse(original_request=request)
            if request.WhichOneof("message_request") == "list_services":
                reply.list_services_response.service.add(name="huge.Service")
            else:
                reply.file_descriptor_response.file_descriptor_proto.extend(self._files)
            yield reply


def huge_file():
    file = descriptor_pb2.FileDescriptorProto(name="huge.proto", package="huge", syntax="proto3")
    file.service.add(name="Service").method.add(
        name="Call", input_type=".huge.M0", output_type=".huge.M0"
    )
    number = size = 0
    while size < REFLECTED - 5000:
        message = file.message_type.add(name=f"M{number}")
        for field in range(20):
            message.field.add(name=f"field_{field}", number=field + 1, type=9, label=1)
        number, size = number + 1, size + message.ByteSize() + 4
    return file.SerializeToString()


def reflecting():
    plugin.run(EchoServicer(), Reflecting())


class Measuring:
    """Tells 9,000 families of metrics."""

    def __init__(self):
        self.service = service_from_descriptor(metrics.DESCRIPTOR.services_by_name["Metrics"], self)
        label = metrics.MetricLabel(name="grpc.method", value="m")
        self._families = [
            metrics.MetricFamily(
                name=f"many.metric{number}",
                kind=metrics.METRIC_KIND_COUNTER,
                points=[metrics.MetricPoint(labels=[label], value=number)],
            )
            for number in range(FAMILIES)
        ]

    async def Collect(self, request):
        return metrics.CollectMetricsResponse(families=self._families)


def measuring():
    plugin.run(EchoServicer(), Measuring())


if __name__ == "__main__":
    globals()[sys.argv[1]]()

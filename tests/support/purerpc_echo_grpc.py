import purerpc
import echo.v1.echo_pb2 as echo_dot_v1_dot_echo__pb2


class EchoServiceServicer(purerpc.Servicer):
    async def Echo(self, input_message):
        raise NotImplementedError()

    async def Slow(self, input_message):
        raise NotImplementedError()

    async def Repeat(self, input_message):
        raise NotImplementedError()

    async def Join(self, input_messages):
        raise NotImplementedError()

    async def Chat(self, input_messages):
        raise NotImplementedError()

    @property
    def service(self) -> purerpc.Service:
        service_obj = purerpc.Service(
            "echo.v1.EchoService"
        )
        service_obj.add_method(
            "Echo",
            self.Echo,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        service_obj.add_method(
            "Slow",
            self.Slow,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                echo_dot_v1_dot_echo__pb2.SlowRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        service_obj.add_method(
            "Repeat",
            self.Repeat,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                echo_dot_v1_dot_echo__pb2.RepeatRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        service_obj.add_method(
            "Join",
            self.Join,
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_UNARY,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        service_obj.add_method(
            "Chat",
            self.Chat,
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        return service_obj


class EchoServiceStub:
    def __init__(self, channel):
        self._client = purerpc.Client(
            "echo.v1.EchoService",
            channel
        )
        self.Echo = self._client.get_method_stub(
            "Echo",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        self.Slow = self._client.get_method_stub(
            "Slow",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                echo_dot_v1_dot_echo__pb2.SlowRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        self.Repeat = self._client.get_method_stub(
            "Repeat",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                echo_dot_v1_dot_echo__pb2.RepeatRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        self.Join = self._client.get_method_stub(
            "Join",
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_UNARY,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
        self.Chat = self._client.get_method_stub(
            "Chat",
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                echo_dot_v1_dot_echo__pb2.EchoRequest,
                echo_dot_v1_dot_echo__pb2.EchoReply,
            )
        )
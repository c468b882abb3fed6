import purerpc
import tests.interop.grpc_testing.interop_pb2 as tests_dot_interop_dot_grpc_testing_dot_interop__pb2


class TestServiceServicer(purerpc.Servicer):
    async def EmptyCall(self, input_message):
        raise NotImplementedError()

    async def UnaryCall(self, input_message):
        raise NotImplementedError()

    async def StreamingOutputCall(self, input_message):
        raise NotImplementedError()

    async def StreamingInputCall(self, input_messages):
        raise NotImplementedError()

    async def FullDuplexCall(self, input_messages):
        raise NotImplementedError()

    async def UnimplementedCall(self, input_message):
        raise NotImplementedError()

    @property
    def service(self) -> purerpc.Service:
        service_obj = purerpc.Service(
            "grpc.testing.TestService"
        )
        service_obj.add_method(
            "EmptyCall",
            self.EmptyCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )
        service_obj.add_method(
            "UnaryCall",
            self.UnaryCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.SimpleRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.SimpleResponse,
            )
        )
        service_obj.add_method(
            "StreamingOutputCall",
            self.StreamingOutputCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallResponse,
            )
        )
        service_obj.add_method(
            "StreamingInputCall",
            self.StreamingInputCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingInputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingInputCallResponse,
            )
        )
        service_obj.add_method(
            "FullDuplexCall",
            self.FullDuplexCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallResponse,
            )
        )
        service_obj.add_method(
            "UnimplementedCall",
            self.UnimplementedCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )
        return service_obj


class TestServiceStub:
    def __init__(self, channel):
        self._client = purerpc.Client(
            "grpc.testing.TestService",
            channel
        )
        self.EmptyCall = self._client.get_method_stub(
            "EmptyCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )
        self.UnaryCall = self._client.get_method_stub(
            "UnaryCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.SimpleRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.SimpleResponse,
            )
        )
        self.StreamingOutputCall = self._client.get_method_stub(
            "StreamingOutputCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallResponse,
            )
        )
        self.StreamingInputCall = self._client.get_method_stub(
            "StreamingInputCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingInputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingInputCallResponse,
            )
        )
        self.FullDuplexCall = self._client.get_method_stub(
            "FullDuplexCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallRequest,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.StreamingOutputCallResponse,
            )
        )
        self.UnimplementedCall = self._client.get_method_stub(
            "UnimplementedCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )


class UnimplementedServiceServicer(purerpc.Servicer):
    async def UnimplementedCall(self, input_message):
        raise NotImplementedError()

    @property
    def service(self) -> purerpc.Service:
        service_obj = purerpc.Service(
            "grpc.testing.UnimplementedService"
        )
        service_obj.add_method(
            "UnimplementedCall",
            self.UnimplementedCall,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )
        return service_obj


class UnimplementedServiceStub:
    def __init__(self, channel):
        self._client = purerpc.Client(
            "grpc.testing.UnimplementedService",
            channel
        )
        self.UnimplementedCall = self._client.get_method_stub(
            "UnimplementedCall",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
                tests_dot_interop_dot_grpc_testing_dot_interop__pb2.Empty,
            )
        )
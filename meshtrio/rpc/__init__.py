"""gRPC on trio: connections, servers, channels and calls, under purerpc's programming model."""

"""The peers of the RPC benchmark: one service, echo.v1, on every Python gRPC there is, on grpc-go,
and a floor: the same bytes on a bare trio socket."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.peers.on_trio import Meshtrio, MeshtrioMesh, Purerpc, RawSocketFloor
from tests.benchmarks.peers.with_grpc_go import GrpcGo
from tests.benchmarks.peers.with_grpcio import GrpcAio, GrpcioThreads
from tests.benchmarks.peers.with_grpclib import Grpclib

PEERS: dict[str, Any] = {
    peer.name: peer
    for peer in (
        Meshtrio(),
        MeshtrioMesh(),
        GrpcAio(),
        GrpcioThreads(),
        Grpclib(),
        Purerpc(),
        GrpcGo(),
        RawSocketFloor(),
    )
}

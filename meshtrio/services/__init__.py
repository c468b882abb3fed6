"""gRPC services that meshtrio serves itself: on the mesh socket, and in every plugin."""

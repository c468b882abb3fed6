"""The dashboard: a web page that shows a mesh, served by the mesh's own process.

The page gets its data as the command line does, from `meshtrio.v1.Control` at the mesh socket,
which `control_client` calls. `routes` maps requests to it, `http` speaks HTTP/1.1 by h11 (extra
`dashboard`), and `guard` decides which requests are answered. Live data is one stream of
Server-Sent Events for each page: `topics` collects what all viewers see once, and only while there
is a viewer.

Nothing here ends the mesh: an error ends a request, and is logged.
"""

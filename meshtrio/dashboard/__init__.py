"""The web dashboard: a page for operators and plugin authors, served by the mesh itself.

Theory of operation
-------------------

`service.serve_dashboard` runs in the mesh's process while the mesh does. It is a client of
`meshtrio.v1.Control` as the CLI is, by a channel to the mesh socket, and an HTTP server for
browsers; it has no other access to the mesh.

    service           puts the parts together, and serves
    url               the token and the URL, in the runtime dir
    requests_check    pure: Host, Origin, cookies, tokens
    routes            a request to a response
    static_files      the page, its scripts and styles
    control_api       replies of Control as JSON; `query` and `json_messages` convert
    actions           what viewers may have the mesh do, with its author in the log
    stream            /api/stream: what one viewer wants, as Server-Sent Events
    viewer            the bounded queue of one viewer
    topics            what is collected once for all viewers, while there is one

Who may do what: a viewer who knows the token gets a cookie, and may see all that Control shows.
With `control = true` viewers may act, too. A request has to name this server (`Host`), and to come
from its own page (`Origin`, `Sec-Fetch-Site`), so that no other website can make a viewer's browser
do anything.

Invariants. Nothing is collected while there is no viewer. A viewer who reads slowly costs a
bounded queue. An exception ends a request, never the mesh.
"""

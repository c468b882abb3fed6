"""Small helpers without knowledge of meshes, calls or plugins; any layer may import them.

Each module does one thing and owns nothing of its callers. There is one of each: bounded caches
(`caches`), logging once per reason (`log_once`), a queue with a writer thread
(`background_writer`), backoff, a token bucket, and what /proc says of a process with signals by
pidfd (`processes`). A helper that another package needs, too, moves here instead of being written
twice. In the import contract of pyproject.toml the modules that import trio are in a higher layer
than those that do not.
"""

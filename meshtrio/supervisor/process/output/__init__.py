"""What plugins write to stdout and stderr: read in bounded time, cut into lines in bounded memory.

`pipe_reader.read_pipe` owns the descriptor of one pipe. It reads, and passes bytes to a
`PipeConsumer`, which the supervisor implements with the pure parts of `output_lines`:

- `LineSplitter` cuts bytes into lines, or into blocks of lines if they come too fast to be handled
  one by one. It holds at most `MAX_LINE_LENGTH` bytes of an unfinished line.
- `RateLimiter` drops lines above the configured rate, and counts them.
- `LineBuffer` keeps the last lines of an instance, across its process runs.

Invariants:

- A plugin that floods its output slows down itself, not the event loop: each pipe is read at most
  `MAX_READS_PER_SECOND` times a second in the long run, and the pipes of all plugins share one time
  slice per iteration of the loop. After that the pipe fills and write(2) blocks the plugin.
- What a plugin wrote before its exit is read before the exit is reported, up to the capacity of a
  pipe.
- Cancellation never loses bytes that were already read.
"""

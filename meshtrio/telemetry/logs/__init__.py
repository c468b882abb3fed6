"""What is logged: what happens in a mesh, what plugins write, and the form of both."""

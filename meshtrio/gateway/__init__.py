"""One door to every plugin: calls on the mesh socket that are passed on to who serves them."""

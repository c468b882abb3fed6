"""Plugin processes: one nursery tree that starts, watches, restarts and stops them."""

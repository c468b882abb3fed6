"""One process and its group: started within its limits, read, watched by the warden, and ended."""

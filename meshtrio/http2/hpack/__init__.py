"""Header compression, RFC 7541: an encoder without state, and a decoder with a dynamic table."""

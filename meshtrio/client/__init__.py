"""Calling services: channels, the endpoints they choose from, and the calls they make there."""

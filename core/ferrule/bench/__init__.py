"""A load generator: sends requests to a server or an engine and measures the answers."""

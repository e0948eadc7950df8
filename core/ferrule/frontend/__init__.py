"""What the HTTP server and the Python API share: prompts become requests, outputs become text."""

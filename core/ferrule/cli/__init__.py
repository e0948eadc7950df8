"""The command line: flags become options, and what happens is shown in the terminal."""

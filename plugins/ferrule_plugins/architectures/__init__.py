"""Model families: what a config means, and which modules compute it."""

"""Weight adapters: how checkpoints spell names and config keys, as data."""

"""``classifier tune``: the fastest way to train a config on this machine, found by measuring."""

"""What a checkpoint may do, and whose it is."""

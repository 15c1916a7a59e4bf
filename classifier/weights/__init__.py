"""Where weights come from, and how they fit a network."""

"""Image files to pixels: which formats are read, and the one way in which they are."""

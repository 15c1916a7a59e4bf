"""What watches a training and keeps its run folder."""

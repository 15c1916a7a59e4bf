"""What watches a training: the run record, the console, the writer of predictions."""

"""One file for each kind of task that a study can name."""

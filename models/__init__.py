"""The models and tasks that a study can name."""

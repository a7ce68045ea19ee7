"""Whether a served model still sees what it was trained on: counts, compared with counts."""

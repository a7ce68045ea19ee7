"""The hospital's side: its file, its data, local training, policy."""

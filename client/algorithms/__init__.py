"""The hospital's side of federated algorithms, one a file."""

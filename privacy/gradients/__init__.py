"""Fedward's gradient engine: the clipped sum of patients' gradients in one backward pass."""

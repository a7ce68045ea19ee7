"""The hospital's page: what its staff decide, and what was spent and left."""

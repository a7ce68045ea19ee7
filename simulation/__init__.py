"""Both sides on one machine: splitting data among pretended hospitals and running a study."""

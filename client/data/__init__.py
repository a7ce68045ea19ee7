"""Readers: from a hospital's own files to the records that a study asks for, one kind a file."""

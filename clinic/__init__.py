"""The clinic: what becomes of a finished run, where its model meets patients that it never saw."""

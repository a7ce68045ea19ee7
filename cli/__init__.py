"""The command `fedward`: thin commands, one file a group."""

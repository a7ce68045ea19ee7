"""The contract that both sides sign: study, messages, typed errors."""

"""What must not be wrong: sums, patients' privacy, the ledger. No Flower, no network."""

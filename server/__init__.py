"""The aggregator's side: the round loop and the server's optimizer."""

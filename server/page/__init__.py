"""The aggregator's page: who is there, how its runs go, and what came of them."""

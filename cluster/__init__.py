"""Where it runs: launching jobs, and the worker inside them."""

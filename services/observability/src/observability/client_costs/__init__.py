"""The cost of each client's requests: tokens, GPU seconds and money, with the idle share, from decision records."""

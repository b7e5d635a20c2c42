"""Open-loop load, its reports and the benchmark of the router next to its peers."""

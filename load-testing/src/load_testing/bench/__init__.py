"""The router's own cost next to its peers: one machine, one run, alternated, reported as ratios."""

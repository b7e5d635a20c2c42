"""The router's own cost beside its peers: one machine, one run, alternated, told as ratios."""

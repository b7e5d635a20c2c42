"""Results of a load run: the machine-readable summary, the page for people, comparisons of two runs."""

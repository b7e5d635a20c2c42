"""What a load run showed: the machine-readable summary, the page for people, and comparisons of two runs."""

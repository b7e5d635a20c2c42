"""Faults under load on a whole stack: the load generator, the stack, the faults and the result table."""

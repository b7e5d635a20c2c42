"""Faults under load on a whole stack: the load that judges every byte, the stack and its witnesses, the table."""

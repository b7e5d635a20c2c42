"""Guarded rollouts: raises a new pool's share in steps, and goes back when the pool is worse than the old one."""

"""Attacks on a running stack, for tests that measure their effect. Must not judge the effect."""

"""The local stack: what its parts are, how they are installed, started, watched and shown. Routes nothing."""

"""Real servers that a test starts: edges, routers, engines that misbehave, collectors."""

"""What a request looked like from outside, and when requests are sent. Knows no tool and no service."""

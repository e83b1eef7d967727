"""Models and weights by name."""

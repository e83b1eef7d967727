"""Training: one loop for everything that learns here. A recipe says how, an objective says what."""

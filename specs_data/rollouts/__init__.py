"""What a policy is asked and what it answered: requests, settings, and the durable store."""

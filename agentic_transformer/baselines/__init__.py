"""What the agent is compared with and is not a setting of it."""

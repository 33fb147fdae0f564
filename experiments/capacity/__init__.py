"""What `experiments.plan` keeps, says and draws."""

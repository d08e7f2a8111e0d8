"""Training: the loop, the stages, their steps and losses, and where parameters come from."""

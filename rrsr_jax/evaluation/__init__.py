"""Evaluation: protocols, the loop over images, metrics, and what is reported."""

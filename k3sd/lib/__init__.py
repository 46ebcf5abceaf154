"""Helpers that know neither Kubernetes nor k3sd and could be a distribution of their own. Standard library only."""

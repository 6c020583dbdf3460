"""Associative memory: the theory of Niu et al. 2024 (arXiv 2405.08707), computed, and what trained transformers do of it."""

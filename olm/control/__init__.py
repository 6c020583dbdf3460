"""Controlled generation: automata, the exact posterior, NADO and DiNADO, decoding."""

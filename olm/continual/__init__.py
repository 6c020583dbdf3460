"""Continual pre-training: how much old data to replay, and which schedule to take, foretold from pilot runs."""

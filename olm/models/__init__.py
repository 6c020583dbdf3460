"""Models as pure functions on dictionaries of arrays: a perceptron and a small transformer.

Nothing here knows of policies: each model is a way to make parameters and a way to turn parameters and examples into losses.
"""

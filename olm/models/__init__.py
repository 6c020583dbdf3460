"""Models as pure functions on dictionaries of arrays: a perceptron, a small transformer, and hidden Markov models (`hmm`).

Nothing here knows of policies: each model is a way to make parameters and a way to turn parameters and examples into losses.
"""

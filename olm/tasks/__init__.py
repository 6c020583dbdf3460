"""Ready-made tasks: the paper's perceptron, and language from generated stories or from text files."""

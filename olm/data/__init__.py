"""Where examples come from: generated stories of known entropy, the paper's corruption of sentences, and text files."""

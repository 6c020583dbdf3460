"""Controlled generation: a base p, a constraint C on whole sequences, and q* = p(· | C = 1), known exactly or learned.

- `model`: `Model`, `Guide` and their product; `decode`: sampling, greedy and beam search of any of them.
- `automata`, `keywords`: constraints over tokens, and over the bytes that tokens stand for.
- `posterior`: R(y_≤t) = Pr[C = 1 | y_≤t] of a hidden Markov model, exactly; GeLaTo and masking as guides.
- `network`, `nado`: NADO and DiNADO, which learn R; `samples`, `explore`: from what (`olm.fitting` is how); `baselines`.
- `tasks`, `formality`: tasks whose posterior is known, and how far a model is from it.
- `text`, `guides`, `generate`, `measures`: sentences with given words, from one's own text.

Papers: NADO (Meng et al. 2022, arXiv 2205.14219), DiNADO (Lu et al. 2024, arXiv 2306.11825), GeLaTo (Zhang et al. 2023, arXiv
2304.07438), Ctrl-G (Zhang et al. 2024, arXiv 2406.13892). Not done: constraints that no label of a whole
sequence says.
"""

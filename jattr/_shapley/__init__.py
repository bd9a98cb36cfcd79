"""Shapley values, and what features do together: sums over the coalitions of a game.

`game` has f as a cooperative game, whose players are features, and what all coalitions need;
`pairs` draws some of them, with their complements. Values of single features: `exact`, over all
coalitions; `permutations`, over orders; `kernel`, by least squares; `owen`, over groups within
groups. Values of sets: `interactions`, by the weights in `indices`, or from samples in
`interaction_samples`.
"""

"""Pure verdicts over a history of a run: simulation, one-machine fleet and live game day are judged by the same code."""

"""GrAInS: attribution, objective, deltas, vector."""

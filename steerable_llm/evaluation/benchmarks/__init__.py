"""Published benchmarks, run by the lm-evaluation-harness on a model with and without steering."""

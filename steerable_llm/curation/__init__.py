"""From logged failures to pairs: judges, gates, scrubbing, modes, proposals and the review."""

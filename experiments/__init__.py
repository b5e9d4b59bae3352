"""The leaderboard and the ablations of the GrAInS paper: long runs, outside the wheel."""

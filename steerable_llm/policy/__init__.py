"""Which steering a request gets: the policy's file, its steps and its conditions."""

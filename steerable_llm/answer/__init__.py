"""From a request to an answer: encode, decode, and a record of what was applied."""

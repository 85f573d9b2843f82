"""One script per engine, run by the referee with that engine's own Python, and what they share."""

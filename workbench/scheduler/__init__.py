"""What runs in the next step: pure decisions, no torch, no clock, no threads."""

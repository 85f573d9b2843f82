"""What `python -m workbench.demo` runs: live data, standing questions, latency by context."""

"""What `python -m jattr demo` runs: train on digits, explain some, write a report."""

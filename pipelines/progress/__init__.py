"""What a run counts and shows: the ledger, metrics, traces, and report.html."""

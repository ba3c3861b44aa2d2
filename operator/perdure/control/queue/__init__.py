"""What is reconciled next: the work queue and the slots that runs share."""

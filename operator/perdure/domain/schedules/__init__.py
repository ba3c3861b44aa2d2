"""The times at which a WorkflowSchedule starts runs."""

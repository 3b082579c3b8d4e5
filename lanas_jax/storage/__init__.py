"""What is written so that a run can be resumed: trials, checkpoints, weights, settings, locked folders."""

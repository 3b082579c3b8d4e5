"""Files from which a run can be resumed: trials, checkpoints, weights, settings, and locked folders."""

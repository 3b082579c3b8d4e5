"""What an experiment's programs will need on a machine that is not here: memory, operations, chip-hours."""

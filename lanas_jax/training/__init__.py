"""The parts of a training step: SGD settings, schedules, loss, batch order, augmentation."""

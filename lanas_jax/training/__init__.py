"""What a training step is made of: settings of SGD, schedules, loss, batch order, augmentation."""

"""What the training of every method shares: pairs of scans, augmentation, and the trainer with its run folder."""

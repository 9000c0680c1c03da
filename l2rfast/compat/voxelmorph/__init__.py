"""VoxelMorph: `functional` and `modules` as in 0.3, `layers` and `losses` as in 0.2, which need no VoxelMorph."""

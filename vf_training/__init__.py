"""What any training of ours needs: the methods, the run folder, its analysis, commands, the device."""

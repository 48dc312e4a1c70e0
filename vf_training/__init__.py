"""What every training needs: the methods, the run folder, its analysis, commands, the device."""

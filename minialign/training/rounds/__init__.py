"""Methods that sample, select and train in rounds."""

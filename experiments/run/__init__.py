"""What every run needs, whatever it is about: command line, folder, loop, batches, pictures."""

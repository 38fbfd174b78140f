"""Teacher outputs kept on disk: their rows, their layout and the space that they may take."""

"""A small trained network with its data, so that the whole path runs in minutes and offline."""

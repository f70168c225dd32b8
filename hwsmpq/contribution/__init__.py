"""The game: what every (group, precision) contributes to the value of an assignment."""

"""The command line, for people and for the containers' entry points."""

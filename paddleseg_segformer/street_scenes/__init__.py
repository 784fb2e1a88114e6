"""The parts of the procedural street scenes (see `data.street_scenes`)."""

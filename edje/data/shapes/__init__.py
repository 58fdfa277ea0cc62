"""The embedded data set: scenes of coloured shapes, their captions and their drawings."""

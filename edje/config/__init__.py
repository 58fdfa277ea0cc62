"""Composition, its checks, and run folders: the layer between the command line and the tasks."""

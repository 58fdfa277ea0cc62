"""Sources of image-caption data: annotation files, folders and hub data sets as checked splits."""

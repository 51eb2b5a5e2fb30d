"""Everything made up: head phantom, coils, random fields, simulation from images, and the data sets written of them."""

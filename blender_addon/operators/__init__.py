"""What the artist presses: thin calls of plain functions, each running to its end in `-b` as well."""

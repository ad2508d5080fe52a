"""Workshop of `dimension`: laws whose dimension is known, and what is measured of each field."""

"""Real teachers for real students: what every score says of a weak model against the student that it really makes."""

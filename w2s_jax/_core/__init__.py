"""What every wing stands on: checks, arrays on entry, factorisations, Lanczos, functions of eigenvalues; private."""

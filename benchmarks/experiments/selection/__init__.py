"""Selection of weakly labelled rows: what each score's better half is worth to a student."""

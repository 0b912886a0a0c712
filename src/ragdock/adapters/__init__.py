"""One technology a file; everything foreign is translated here."""

"""Commands of `symbench`, one file a group. The only code that imports cluster/ and results/."""

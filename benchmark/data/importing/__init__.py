"""Import of data that people have: forms of files, conversion into data files, and the plug-in that declares them."""

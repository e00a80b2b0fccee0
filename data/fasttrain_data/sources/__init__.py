"""Where data sets come from: by name, from files, folders and arrays."""

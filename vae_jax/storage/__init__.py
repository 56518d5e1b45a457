"""Files and directories: atomic writes, locks on output directories, and the cache."""

"""Files: their format, how parts are encoded and read, and how they are served over HTTP."""

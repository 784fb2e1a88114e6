"""Where weights come from, as configs beside them and metadata in them tell."""

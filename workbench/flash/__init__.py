"""Standing questions, answered again after every new version, before anyone asks."""

"""What would run, said before it does: from a few measured probes to hours, room, disk and seeds."""

"""Files written whole, processes, interrupts, the command line, free memory, progress of counted work."""

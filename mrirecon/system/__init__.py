"""Files written whole, processes, interrupts, free memory, progress of counted work."""

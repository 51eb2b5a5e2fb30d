"""The commands, one file each: installed as mrirecon.commands, `mrirecon NAME` runs the file NAME.py."""

"""The YAML files of every command: installed as mrirecon.conf."""

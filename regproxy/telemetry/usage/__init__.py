"""What is pulled, by whom, and what was refused or moved: counted by workers, kept in a small file."""

"""What a run keeps in its folder, and how it goes on from there."""

"""What the commands do, as coroutines over streams that are handed in; they yield events and never print."""

"""File transfer: what is read and where it is kept, and the coroutines that carry it between peers."""

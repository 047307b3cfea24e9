# Names the open socket with this descriptor, for as long as it is open: another that gets the descriptor later has
# another handle. Never 0. Raises OSError.
def handle(descriptor: int, /) -> int: ...

# Sends each piece to the socket at its place, in order and without waiting. Returns the places whose socket did not
# take all of its piece, with how many bytes it took: 0 after an error, too, which the next who writes there meets, and
# of a socket that is closed. Raises TypeError or OverflowError, with nothing sent.
def send_each(sockets: list[int], pieces: list[bytes], /) -> list[tuple[int, int]]: ...

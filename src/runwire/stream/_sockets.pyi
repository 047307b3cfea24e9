# Sends each piece to the socket with the descriptor at its place, in order and without waiting. Returns the places
# whose socket did not take all of its piece, with how many bytes it took: 0 after an error, too, which the next who
# writes there meets. Raises TypeError or OverflowError, with nothing sent.
def send_each(sockets: list[int], pieces: list[bytes], /) -> list[tuple[int, int]]: ...

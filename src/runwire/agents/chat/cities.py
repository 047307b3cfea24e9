"""The map of the chat: cities, where they are, and a reason to go there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class City(NamedTuple):
    name: str
    north: float
    east: float
    morning: str
    evening: str


_ALL: Final = (
    City("Amsterdam", 52.37, 4.90, "cycle along the Prinsengracht", "watch boats at the NDSM wharf"),
    City("Athens", 37.98, 23.73, "be on the Acropolis at eight", "see a film on a roof in Thissio"),
    City("Barcelona", 41.39, 2.17, "climb to the Bunkers del Carmel", "share small plates in Gràcia"),
    City("Berlin", 52.52, 13.40, "row across the Müggelsee", "hear a quartet in Neukölln"),
    City("Copenhagen", 55.68, 12.57, "swim in the harbour at Islands Brygge", "eat smørrebrød by candlelight"),
    City("Dublin", 53.35, -6.26, "walk the cliffs of Howth", "find the pub with the quietest fiddler"),
    City("Edinburgh", 55.95, -3.19, "go up Arthur's Seat", "read by the fire in Stockbridge"),
    City("Hamburg", 53.55, 9.99, "take ferry 62 to Finkenwerder", "walk the Old Elbe Tunnel"),
    City("Helsinki", 60.17, 24.94, "take the ferry to Suomenlinna", "warm up in a public sauna"),
    City("Istanbul", 41.01, 28.98, "cross the Bosporus for breakfast", "listen to the gulls of Karaköy"),
    City("Lisbon", 38.72, -9.14, "ride tram 28 before the crowd", "hear fado in Alfama"),
    City("London", 51.51, -0.13, "walk the canal to Little Venice", "see a play from the cheap seats"),
    City("Madrid", 40.42, -3.70, "give the Prado one room only", "have dinner at ten, as one does"),
    City("Montreal", 45.50, -73.57, "climb Mont Royal", "settle the question of bagels"),
    City("New York", 40.71, -74.01, "take the ferry to Governors Island", "hear a late set in the Village"),
    City("Oslo", 59.91, 10.75, "ski or hike from the metro", "sit on the roof of the Opera"),
    City("Paris", 48.86, 2.35, "walk the Promenade plantée", "picnic by the Canal Saint-Martin"),
    City("Porto", 41.15, -8.61, "follow the Douro to the sea", "taste three ports, and stop there"),
    City("Prague", 50.08, 14.44, "have Charles Bridge at sunrise", "take tram 22 for no reason"),
    City("Reykjavik", 64.15, -21.94, "soak in the Vesturbæjarlaug", "look for the northern lights"),
    City("Rome", 41.90, 12.50, "peek through the keyhole on the Aventine", "eat cacio e pepe in Testaccio"),
    City("San Francisco", 37.77, -122.42, "climb the tiled steps in the Sunset", "watch the fog come in"),
    City("Stockholm", 59.33, 18.07, "kayak between the islands", "see the metro as a gallery"),
    City("Tokyo", 35.68, 139.69, "have sushi at Toyosu for breakfast", "get lost in Shimokitazawa"),
    City("Vienna", 48.21, 16.37, "read every paper in a coffee house", "stand at the opera for the price of a coffee"),
    City("Zurich", 47.37, 8.54, "swim down the Limmat", "take the last train up Uetliberg"),
)
CITIES: Final[Mapping[str, City]] = {city.name.lower(): city for city in _ALL}
"""By name, in lower case."""

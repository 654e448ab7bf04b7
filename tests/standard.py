"""A client of event streams that knows what the standard says (WHATWG HTML 9.2.6), and nothing of this project."""

from collections.abc import Iterator


class EventSource:
    """Bytes in, events out. `last_event_id` outlives connections; half an event does not."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.connect()

    def connect(self) -> None:
        """Begin a new connection, which is asked for with `last_event_id`, unless that is empty."""
        self._rest = b""
        self._id = self.last_event_id
        self._type = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[tuple[str, str]]:
        """The type and the data of each event that these bytes complete."""
        *lines, self._rest = (self._rest + piece).split(b"\n")  # the one line end of the three that is sent here
        for line in lines:
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            match name:
                case "":
                    if not line:
                        yield from self._dispatch()
                case "id":
                    self._id = value
                case "event":
                    self._type = value
                case "data":
                    self._data.append(value)

    def _dispatch(self) -> Iterator[tuple[str, str]]:
        self.last_event_id = self._id
        event = self._type or "message", "\n".join(self._data)
        is_event = bool(self._data)
        self._type, self._data = "", []
        if is_event:
            yield event

"""What ticks have changed and the database does not have yet. No clock, no database."""

from dataclasses import dataclass, field, replace

from service.monitor.outbox import Entry
from service.occurrences import Occurrence, Progress


@dataclass
class Unsaved:
    """What the database does not have yet."""

    changed: set[str] = field(default_factory=set)  # fingerprints
    turned: set[str] = field(default_factory=set)  # those that began or ended to fire: an acknowledgement ends with it
    announced: list[Entry] = field(default_factory=list)
    stepped: list[Entry] = field(default_factory=list)
    reminded: list[Entry] = field(default_factory=list)
    closed: list[Entry] = field(default_factory=list)
    begun: list[Occurrence] = field(default_factory=list)
    progress: dict[str, Progress] = field(default_factory=dict)  # of occurrences, by their id

    @property
    def entries(self) -> list[Entry]:
        return [*self.announced, *self.stepped, *self.reminded, *self.closed]

    def move(self, seconds: float) -> None:
        """The clock was set by so many seconds: what is written later is as long as what has been written."""
        self.begun = [replace(each, began=each.began + seconds, fired=each.fired + seconds) for each in self.begun]
        ended = {name: stands.ended for name, stands in self.progress.items() if stands.ended is not None}
        self.progress |= {name: self.progress[name]._replace(ended=end + seconds) for name, end in ended.items()}

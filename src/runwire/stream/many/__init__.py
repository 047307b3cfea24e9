"""One stream of many runs: a list of them, those of a session, or those with a label.

    selector = Selector(session="chat-17")
    async with many.attach(selector, last_event_id=header, tenant=tenant) as session:
        ...  # as the stream of one run

Each member follows its run's watch, as a client of that run's own stream would. So a run has one tail and one fan-out
in a process, whoever watches it. The merged session takes the pieces that the fan-out writes to its members, gives each
frame an id that resumes all runs, and writes to the client:

    watch of a run ---piece---> member --+
    watch of a run ---piece---> member --+--> merged session ---> client
    watch of a run ---piece---> member --+
"""

from runwire.stream.many.checkpoints import Checkpoints
from runwire.stream.many.many_streams import ManyStreams
from runwire.stream.many.merged import MergedSession
from runwire.stream.many.selector import Selector

__all__ = ["Checkpoints", "ManyStreams", "MergedSession", "Selector"]

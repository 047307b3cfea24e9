"""Process: the frame that roles are built in. It knows no stage.

Assembly makes a `Context` and calls the steps of its `Plan` in order. A step builds its part from the context, offers
it to later steps, and says in which phase it is closed.
"""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.process.context import Context
    from runwire.process.hints import Hints
    from runwire.process.phases import Phases
    from runwire.process.plan import Plan, Step
    from runwire.process.settings import ProcessSettings
    from runwire.process.supervision import Supervision
else:
    __getattr__ = lazily(__name__)

__all__ = ["Context", "Hints", "Phases", "Plan", "ProcessSettings", "Step", "Supervision"]

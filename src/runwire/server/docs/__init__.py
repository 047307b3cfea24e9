"""The documentation as a web site under /docs/: Markdown rendered when it is asked for, with search.

    source  -->  markdown  -->  site  -->  /docs/{path}, /docs/search.json
      +------>  navigation  -----^

`source` reads files, `markdown` makes HTML and sections of one page, `navigation` orders the pages as docs/index.md
lists them. Pages are rendered in a thread, since the event loop also serves streams.
"""

from runwire.server.docs.site import DocsSite, add_docs
from runwire.server.docs.source import docs_folder

__all__ = ["DocsSite", "add_docs", "docs_folder"]

"""Declaration of the Bitfinex dialect."""

from node.parts.annex import Annex

ANNEX = Annex("bitfinex", application="dialect:add_dialect")
